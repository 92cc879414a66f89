//! The annotated function: its head taken apart, its body left as it is.

use proc_macro2::{Delimiter, Group, Ident, Span, TokenStream, TokenTree};
use quote::{ToTokens, TokenStreamExt};
use syn::{
    Attribute, Expr, ExprAsync, GenericArgument, LitStr, PathArguments, ReturnType, Signature,
    Stmt, Token, Type, TypeParamBound, Visibility,
    parse::{Parse, ParseStream},
    parse_quote,
};

/// A function as written.
///
/// Its body is kept as tokens: what is wrong in there is the compiler's to say, and
/// an unfinished body must not take the rest of the function away from an editor.
#[derive(Clone)]
pub(crate) struct Function {
    pub(crate) attrs: Vec<Attribute>,
    pub(crate) vis: Visibility,
    pub(crate) defaultness: Option<Token![default]>,
    pub(crate) sig: Signature,
    /// The attributes `#![…]` at the start of the body.
    pub(crate) inner_attrs: Vec<Attribute>,
    /// The body's braces; a required method of a trait has none.
    pub(crate) body: Option<Group>,
}

/// How the function does its work, and so how it can be wrapped.
pub(crate) enum Shape {
    /// `async fn`.
    Async,
    /// It blocks its thread.
    Sync,
    /// It returns a future that an `async` block in its last line makes.
    Future(Box<FutureBody>),
}

/// A body that is one expression around an `async` block.
pub(crate) struct FutureBody {
    /// All of the body.
    pub(crate) stmts: Vec<Stmt>,
    /// What the future returns; `_` where the function's type does not say it.
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
                    "expected the function's body",
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
    pub(crate) fn returned(&self) -> Option<&Type> {
        match &self.sig.output {
            ReturnType::Default => None,
            ReturnType::Type(_, ty) => Some(ty),
        }
    }

    /// Whether another `#[with_lock]`, under whatever name, has expanded inside.
    pub(crate) fn is_expanded(&self, marker: &str) -> bool {
        self.body
            .as_ref()
            .is_some_and(|body| mentions(body.stream(), marker))
    }

    /// Whether an attribute is left that may be a macro and look at the parameters.
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

    pub(crate) fn shape(&self) -> Shape {
        if self.sig.asyncness.is_some() {
            return Shape::Async;
        }
        let (Some(returned), Some(body)) = (self.returned(), &self.body) else {
            return Shape::Sync;
        };
        let output = future_output(returned);
        let parsed = syn::parse::Parser::parse2(syn::Block::parse_within, body.stream());
        let Ok(mut stmts) = parsed else {
            return Shape::Sync;
        };
        let makes_future = async_block(&mut stmts).is_some();
        let output = match output {
            Some(output) => output,
            // An alias of such a type.
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

/// The `async` block that makes the returned future, when the last line is one or
/// wraps one as `Box::pin(async move { … })` does.
pub(crate) fn async_block(stmts: &mut [Stmt]) -> Option<&mut ExprAsync> {
    match stmts.last_mut()? {
        Stmt::Expr(Expr::Return(last), _) => unwrap_async(last.expr.as_mut()?),
        Stmt::Expr(last, None) => unwrap_async(last),
        _ => None,
    }
}

/// The first statement that runs when the function is called, not when its future is
/// polled, and so without the lock.
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

/// What the future returns, for a type that is one as far as can be read off it.
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
                    // A box of a named type is a value like any other.
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

/// Whether `name` occurs in `tokens`, however deep.
pub(crate) fn mentions(tokens: TokenStream, name: &str) -> bool {
    tokens.into_iter().any(|token| match token {
        TokenTree::Ident(ident) => is_named(&ident, name),
        TokenTree::Group(group) => mentions(group.stream(), name),
        _ => false,
    })
}

/// Whether it is that name, raw or not.
pub(crate) fn is_named(ident: &Ident, name: &str) -> bool {
    let text = ident.to_string();
    text.strip_prefix("r#").unwrap_or(&text) == name
}

/// Where to point in an item that could not be read, and whether it is a function.
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
