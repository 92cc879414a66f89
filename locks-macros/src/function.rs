//! The annotated function: a parsed head and an unparsed body.

use proc_macro2::{Delimiter, Group, Ident, Span, TokenStream, TokenTree};
use quote::{ToTokens, TokenStreamExt};
use syn::{
    Attribute, Expr, ExprAsync, GenericArgument, LitStr, PathArguments, ReturnType, Signature,
    Stmt, Token, Type, TypeParamBound, Visibility,
    ext::IdentExt,
    parse::{Parse, ParseStream},
    parse_quote,
};

/// A function.
///
/// The body is kept as tokens. The compiler reports the mistakes in it, and an editor still
/// knows the rest of the function while the body is unfinished.
#[derive(Clone)]
pub(crate) struct Function {
    pub(crate) attrs: Vec<Attribute>,
    pub(crate) vis: Visibility,
    pub(crate) defaultness: Option<Token![default]>,
    pub(crate) sig: Signature,
    /// The inner attributes, `#![…]`, at the start of the body.
    pub(crate) inner_attrs: Vec<Attribute>,
    /// The braces of the body and their content; `None` for a required method of a trait.
    pub(crate) body: Option<Group>,
}

/// The kind of the function, which decides how it is wrapped.
pub(crate) enum Shape {
    /// `async fn`.
    Async,
    /// A function that blocks its thread.
    Sync,
    /// A function that returns a future, which the `async` block of its last expression makes.
    Future(Box<FutureBody>),
}

/// The body of a function that returns a future.
pub(crate) struct FutureBody {
    pub(crate) stmts: Vec<Stmt>,
    /// The output type of the future; `_` if the return type does not contain it.
    pub(crate) output: Type,
}

impl Parse for Function {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        let attrs = input.call(Attribute::parse_outer)?;
        let vis = input.parse()?;
        let is_default = input.peek(Token![default]) && !input.peek2(Token![!]);
        let defaultness = if is_default {
            Some(input.parse()?)
        } else {
            None
        };
        let sig = input.parse()?;
        let mut inner_attrs = Vec::new();
        let body = if input.peek(Token![;]) {
            input.parse::<Token![;]>()?;
            None
        } else {
            let braces: Group = input.parse()?;
            if braces.delimiter() != Delimiter::Brace {
                return Err(syn::Error::new(
                    braces.span(),
                    "expected the body of the function",
                ));
            }
            let rest = |content: ParseStream<'_>| {
                inner_attrs = content.call(Attribute::parse_inner)?;
                content.parse::<TokenStream>()
            };
            let stream = syn::parse::Parser::parse2(rest, braces.stream())?;
            let mut body = Group::new(Delimiter::Brace, stream);
            body.set_span(braces.span());
            Some(body)
        };
        Ok(Self {
            attrs,
            vis,
            defaultness,
            sig,
            inner_attrs,
            body,
        })
    }
}

impl Function {
    /// The declared return type.
    pub(crate) fn return_type(&self) -> Option<&Type> {
        match &self.sig.output {
            ReturnType::Default => None,
            ReturnType::Type(_, ty) => Some(ty),
        }
    }

    /// Whether another `#[with_lock]`, under any name, was expanded in the body.
    pub(crate) fn is_expanded(&self, marker: &str) -> bool {
        self.body
            .as_ref()
            .is_some_and(|body| mentions(body.stream(), marker))
    }

    /// Whether an attribute is left that may be a macro and read the parameters.
    pub(crate) fn has_foreign_attrs(&self) -> bool {
        const PLAIN: [&str; 16] = [
            "allow",
            "cfg",
            "cold",
            "deny",
            "deprecated",
            "doc",
            "expect",
            "forbid",
            "inline",
            "must_use",
            "no_mangle",
            "rustfmt",
            "should_panic",
            "test",
            "track_caller",
            "warn",
        ];
        self.attrs
            .iter()
            .filter_map(|attr| attr.path().segments.first())
            .any(|segment| !PLAIN.iter().any(|plain| segment.ident == plain))
    }

    /// The kind of the function.
    pub(crate) fn shape(&self) -> Shape {
        if self.sig.asyncness.is_some() {
            return Shape::Async;
        }
        let (Some(return_type), Some(body)) = (self.return_type(), &self.body) else {
            return Shape::Sync;
        };
        let output = future_output(return_type);
        let parsed = syn::parse::Parser::parse2(syn::Block::parse_within, body.stream());
        let Ok(mut stmts) = parsed else {
            return Shape::Sync;
        };
        let makes_future = async_block(&mut stmts).is_some();
        let output = match output {
            Some(output) => output,
            // The return type is an alias of a future's type.
            None if makes_future => parse_quote!(_),
            None => return Shape::Sync,
        };
        Shape::Future(Box::new(FutureBody { stmts, output }))
    }
}

impl ToTokens for Function {
    fn to_tokens(&self, tokens: &mut TokenStream) {
        tokens.append_all(&self.attrs);
        self.vis.to_tokens(tokens);
        self.defaultness.to_tokens(tokens);
        self.sig.to_tokens(tokens);
        match &self.body {
            None => tokens.append(proc_macro2::Punct::new(';', proc_macro2::Spacing::Alone)),
            Some(body) => {
                let mut inside = TokenStream::new();
                inside.append_all(&self.inner_attrs);
                body.stream().to_tokens(&mut inside);
                let mut braces = Group::new(Delimiter::Brace, inside);
                braces.set_span(body.span());
                tokens.append(braces);
            }
        }
    }
}

/// The `async` block of the last expression, which may wrap the block, as
/// `Box::pin(async move { … })` does.
pub(crate) fn async_block(stmts: &mut [Stmt]) -> Option<&mut ExprAsync> {
    match stmts.last_mut()? {
        Stmt::Expr(Expr::Return(last), _) => unwrap_async(last.expr.as_mut()?),
        Stmt::Expr(last, None) => unwrap_async(last),
        _ => None,
    }
}

/// The first statement outside the future. It runs when the function is called, and thus
/// without the lock.
pub(crate) fn runs_unlocked(body: &FutureBody) -> Option<&Stmt> {
    let (_, before) = body.stmts.split_last()?;
    before.iter().find(|stmt| !matches!(stmt, Stmt::Item(_)))
}

fn unwrap_async(expr: &mut Expr) -> Option<&mut ExprAsync> {
    match expr {
        Expr::Async(block) => Some(block),
        Expr::Call(call) if call.args.len() == 1 => {
            let Expr::Path(callee) = &*call.func else {
                return None;
            };
            let last = &callee.path.segments.last()?.ident;
            if ["pin", "new", "from", "into_pin"]
                .iter()
                .any(|name| last == name)
            {
                unwrap_async(call.args.first_mut()?)
            } else {
                None
            }
        }
        Expr::MethodCall(call) if call.args.is_empty() => {
            if ["boxed", "boxed_local"]
                .iter()
                .any(|name| call.method == name)
            {
                unwrap_async(&mut call.receiver)
            } else {
                None
            }
        }
        Expr::Cast(cast) => unwrap_async(&mut cast.expr),
        Expr::Paren(paren) => unwrap_async(&mut paren.expr),
        Expr::Group(group) => unwrap_async(&mut group.expr),
        _ => None,
    }
}

/// The output type of the future, if `ty` is written as the type of a future.
fn future_output(ty: &Type) -> Option<Type> {
    match ty {
        Type::ImplTrait(ty) => ty.bounds.iter().find_map(bound_output),
        Type::TraitObject(ty) => ty.bounds.iter().find_map(bound_output),
        Type::Paren(ty) => future_output(&ty.elem),
        Type::Group(ty) => future_output(&ty.elem),
        Type::Path(ty) => {
            let segment = ty.path.segments.last()?;
            let argument = match &segment.arguments {
                PathArguments::AngleBracketed(list) => {
                    list.args.iter().rev().find_map(|argument| match argument {
                        GenericArgument::Type(ty) => Some(ty),
                        _ => None,
                    })
                }
                _ => None,
            };
            match segment.ident.to_string().as_str() {
                "Pin" => future_output(argument?),
                "Box" => match argument? {
                    // A box of a named type is not treated as a future.
                    inner @ (Type::TraitObject(_) | Type::Paren(_)) => future_output(inner),
                    _ => None,
                },
                "BoxFuture" | "LocalBoxFuture" => {
                    Some(argument.cloned().unwrap_or_else(|| parse_quote!(_)))
                }
                _ => None,
            }
        }
        _ => None,
    }
}

fn bound_output(bound: &TypeParamBound) -> Option<Type> {
    let TypeParamBound::Trait(bound) = bound else {
        return None;
    };
    let segment = bound.path.segments.last()?;
    if segment.ident != "Future" {
        return None;
    }
    let PathArguments::AngleBracketed(list) = &segment.arguments else {
        return None;
    };
    list.args.iter().find_map(|argument| match argument {
        GenericArgument::AssocType(output) if output.ident == "Output" => Some(output.ty.clone()),
        _ => None,
    })
}

/// Whether `name` occurs in `tokens`, on any level.
pub(crate) fn mentions(tokens: TokenStream, name: &str) -> bool {
    tokens.into_iter().any(|token| match token {
        TokenTree::Ident(ident) => is_named(&ident, name),
        TokenTree::Group(group) => mentions(group.stream(), name),
        _ => false,
    })
}

/// Whether `ident` is `name` or `r#name`.
pub(crate) fn is_named(ident: &Ident, name: &str) -> bool {
    ident.unraw() == name
}

/// The position at which an unparsable item is reported, and whether the item is a function.
pub(crate) fn head(input: ParseStream<'_>) -> syn::Result<(Span, bool)> {
    input.call(Attribute::parse_outer)?;
    input.parse::<Visibility>()?;
    let at = input.span();
    let mut qualifiers = true;
    while qualifiers && !input.peek(Token![fn]) && !input.is_empty() {
        qualifiers = input.peek(Token![default])
            || input.peek(Token![const])
            || input.peek(Token![async])
            || input.peek(Token![unsafe])
            || input.peek(Token![extern])
            || input.peek(LitStr);
        input.parse::<TokenTree>()?;
    }
    let is_fn = input.peek(Token![fn]);
    input.parse::<TokenStream>()?;
    Ok((at, is_fn))
}
