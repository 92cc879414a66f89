//! What the function becomes: it computes the names, and calls the library with the
//! body as a future or a closure.
//!
//! ```text
//! names ─▶ enter ─▶ run(body) ─▶ leave
//!            │ refused: `busy`, or the error
//! ```

use proc_macro2::{Delimiter, Group, Ident, Literal, Span, TokenStream, TokenTree};
use quote::{ToTokens, format_ident, quote, quote_spanned};
use syn::{
    Expr, ExprReference, Stmt, Token, Type, parse_quote,
    spanned::Spanned,
    visit_mut::{self, VisitMut},
};

use crate::{
    args::{Args, OnLost, Patience},
    function::{Function, FutureBody, Shape, async_block},
    mistakes::Mistakes,
    params::Params,
    template::{Piece, Placeholder, Template},
    validate::validate,
};

/// The library's hidden module as expansions call it. It stands in every one.
pub(crate) const MARKER: &str = "__locks_private";

/// The new function, or `None` when there are mistakes.
pub(crate) fn expand(
    args: &Args,
    mut function: Function,
    mistakes: &mut Mistakes,
) -> Option<TokenStream> {
    let keep_patterns = function.has_foreign_attrs();
    let mut shape = function.shape();
    let params = match &mut shape {
        Shape::Future(body) => {
            let future = async_block(&mut body.stmts).map(|block| &block.block.stmts[..]);
            Params::of_future(&function.sig, future.unwrap_or_default())
        }
        Shape::Async | Shape::Sync => Params::take(&mut function.sig, keep_patterns),
    };
    validate(args, &function, &mut shape, &params, mistakes);
    if !mistakes.is_empty() {
        return None;
    }
    let body = function.body.take()?;
    let returned = match &shape {
        Shape::Future(body) => body.output.clone(),
        Shape::Async | Shape::Sync => function.returned()?.clone(),
    };
    let expansion = Expansion {
        args,
        params: &params,
        returned: Returned::new(returned),
        flavour: if matches!(shape, Shape::Sync) {
            Flavour::Blocking
        } else {
            Flavour::Awaiting
        },
    };
    let inside = match shape {
        Shape::Future(body) => expansion.in_future(*body),
        Shape::Async => expansion.whole(&quote!(async move), &body),
        Shape::Sync => {
            let ty = &expansion.returned.ty;
            expansion.whole(&quote!(move || -> #ty), &body)
        }
    };
    let mut braces = Group::new(Delimiter::Brace, inside);
    braces.set_span(body.span());
    function.body = Some(braces);
    Some(function.into_token_stream())
}

struct Expansion<'a> {
    args: &'a Args,
    params: &'a Params,
    returned: Returned,
    flavour: Flavour,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Flavour {
    Awaiting,
    Blocking,
}

/// The declared return type as it can be repeated inside the function.
struct Returned {
    ty: Type,
    /// Where to report what does not fit it.
    at: Span,
}

impl Returned {
    fn new(mut ty: Type) -> Self {
        let at = ty.span();
        WithoutImplTrait.visit_type_mut(&mut ty);
        Self { ty, at }
    }

    /// Tells the compiler what the surrounding block returns, before it looks at the
    /// first `return` or `?` in it.
    fn declared(&self) -> TokenStream {
        let Self { ty, at } = self;
        quote_spanned! {*at=>
            #[allow(clippy::needless_return)]
            if false {
                return __locks_private::never::<#ty>();
            }
        }
    }
}

impl Expansion<'_> {
    /// All of a body that makes a future, around the `async` block in it.
    fn in_future(&self, mut body: FutureBody) -> TokenStream {
        if let Some(block) = async_block(&mut body.stmts) {
            let capture = block.capture;
            let inside = block.block.to_token_stream();
            if let Some(TokenTree::Group(user)) = inside.into_iter().next() {
                let opener = quote_spanned!(Span::mixed_site()=> async #capture);
                let library = self.library();
                let declared = self.returned.declared();
                let wrapped = self.body(&opener, &TokenStream::new(), &user);
                let inside = Expr::Verbatim(quote!(#library #declared #wrapped));
                block.block.stmts = vec![Stmt::Expr(inside, None)];
            }
        }
        let stmts = body.stmts;
        quote!(#(#stmts)*)
    }

    /// All of the body of a function that runs `user`'s itself.
    fn whole(&self, opener: &TokenStream, user: &Group) -> TokenStream {
        let library = self.library();
        let wrapped = self.body(opener, &self.params.move_in(&self.uses()), user);
        quote!(#library #wrapped)
    }

    /// `user`'s body, opened by `async move` or `move ||`, between
    /// taking the locks and letting them go.
    fn body(&self, opener: &TokenStream, prelude: &TokenStream, user: &Group) -> TokenStream {
        let ours = Span::mixed_site();
        let returns = self.returns();
        let call = self.call();
        let held = self.held();
        let bind_guard = self.args.guard.as_ref().map(|guard| {
            let name = &guard.value;
            quote_spanned!(ours=> let #name = __locks_guard;)
        });
        let guard = self.args.guard.as_ref().map(
            |_| quote_spanned!(ours=> let __locks_guard = __locks_private::guard(&__locks_held);),
        );
        let declared = match self.flavour {
            Flavour::Awaiting => self.returned.declared(),
            Flavour::Blocking => TokenStream::new(),
        };
        let ty = &self.returned.ty;
        // A statement of its own: what the body's last expression borrows ends there.
        let inside = quote_spanned! {ours=>
            #opener {
                #declared
                #prelude
                #bind_guard
                #[allow(unused_braces, clippy::diverging_sub_expression)]
                let __locks_value: #ty = #user;
                #[allow(unreachable_code)]
                __locks_value
            }
        };
        let run = match self.flavour {
            Flavour::Awaiting => quote_spanned! {ours=>
                let __locks_value = {
                    let __locks_body = ::core::pin::pin!(#inside);
                    let __locks_value =
                        __locks_private::run(&__locks_held, __locks_returns, __locks_body).await;
                    __locks_value
                };
                __locks_private::leave(__locks_held, __locks_returns, __locks_value).await
            },
            Flavour::Blocking => quote_spanned! {ours=>
                let __locks_value = __locks_private::run_blocking(&__locks_held, #inside);
                __locks_private::leave_blocking(__locks_held, __locks_returns, __locks_value)
            },
        };
        quote_spanned! {ours=>
            #returns
            #call
            #held
            #guard
            #run
        }
    }

    /// The names that everything else uses.
    fn library(&self) -> TokenStream {
        let ours = Span::mixed_site();
        let krate = self.args.krate.as_ref().map_or_else(
            || quote_spanned!(ours=> ::locks_core),
            |path| path.value.to_token_stream(),
        );
        let matrix = self.matrix();
        quote_spanned! {ours=>
            use #krate::__private as __locks_private;
            #matrix
        }
    }

    /// Where arguments are used outside of the body and of `busy`.
    fn call_uses(&self) -> TokenStream {
        let mut uses = TokenStream::new();
        for placeholder in self.args.templates.iter().flat_map(Template::placeholders) {
            uses.extend(self.params.resolve(&placeholder.argument).to_token_stream());
        }
        if let Some(locks) = &self.args.locks {
            locks.value.to_tokens(&mut uses);
        }
        uses
    }

    /// Where arguments are used outside of the body.
    fn uses(&self) -> TokenStream {
        let mut uses = self.call_uses();
        if let Some(busy) = &self.args.busy {
            busy.value.to_tokens(&mut uses);
        }
        uses
    }

    /// The matrix, and the check of each template against it.
    fn matrix(&self) -> Option<TokenStream> {
        let ours = Span::mixed_site();
        let path = &self.args.matrix.as_ref()?.value;
        let checks = self.args.templates.iter().map(|template| {
            let at = template.literal.span().resolved_at(ours);
            let start = template.literal_start();
            let more = template.placeholders().next().is_some();
            let complaint = format!(
                "{:?} fits no pattern of `{}`: correct its spelling, or add a rule for it",
                template.literal.value(),
                written(&path.to_token_stream()),
            );
            quote_spanned! {at=>
                const _: () = __locks_private::fits(&__LOCKS_MATRIX, #start, #more, #complaint);
            }
        });
        Some(quote_spanned! {ours=>
            const __LOCKS_MATRIX: __locks_private::ConflictMatrix = #path;
            #(#checks)*
        })
    }

    /// How an error of ours becomes the function's.
    fn returns(&self) -> TokenStream {
        let ours = Span::mixed_site();
        let Returned { ty, at } = &self.returned;
        let returns = match &self.args.map_err {
            None => quote_spanned!(*at=> __locks_private::returns::<#ty, _>()),
            Some(map_err) => {
                let path = &map_err.value;
                let result = quote_spanned!(*at=> __locks_private::result::<#ty, _>());
                let by = quote_spanned!(path.span().resolved_at(ours)=> .by(#path));
                quote!(#result #by)
            }
        };
        quote_spanned!(ours=> let __locks_returns = #returns;)
    }

    /// What is asked for. The names stand in a statement of their own: the values they
    /// are made of may not outlive it, or they would have to be `Sync`.
    fn call(&self) -> TokenStream {
        let ours = Span::mixed_site();
        let names = self
            .args
            .templates
            .iter()
            .map(|template| self.name(template));
        let patience = self
            .args
            .patience
            .as_ref()
            .map(|patience| match patience.value {
                Patience::Forever => TokenStream::new(),
                Patience::AtOnce => quote_spanned!(ours=> .at_once()),
                Patience::AtMost(limit) => {
                    let (secs, nanos) = (limit.as_secs(), limit.subsec_nanos());
                    quote_spanned!(ours=> .at_most(#secs, #nanos))
                }
            });
        let on_lost = self
            .args
            .on_lost
            .as_ref()
            .and_then(|on_lost| match on_lost.value {
                OnLost::Cancel => None,
                OnLost::Continue => Some(quote_spanned!(ours=> .carry_on_when_lost())),
            });
        let matrix = self
            .args
            .matrix
            .as_ref()
            .map(|_| quote_spanned!(ours=> .under(&__LOCKS_MATRIX)));
        let locks = self.args.locks.as_ref().map(|locks| {
            let expr = reference_to(&locks.value);
            quote_spanned!(locks.value.span().resolved_at(ours)=> .on(#expr))
        });
        let options = quote!(#patience #on_lost #matrix #locks);
        let options = (!options.is_empty())
            .then(|| quote_spanned!(ours=> let __locks_call = __locks_call #options;));
        let borrow = self.params.borrow(&self.call_uses());
        let call = quote_spanned! {ours=>
            let __locks_call = __locks_private::Call::new([#(#names),*]);
            #options
        };
        if borrow.is_empty() {
            return call;
        }
        quote_spanned! {ours=>
            let __locks_call = {
                #borrow
                #call
                __locks_call
            };
        }
    }

    /// One name, computed.
    fn name(&self, template: &Template) -> TokenStream {
        let at = template.literal.span().resolved_at(Span::mixed_site());
        let pieces = template.pieces.iter().map(|piece| match piece {
            Piece::Text(text) => quote_spanned!(at=> __locks_private::text(#text)),
            Piece::Value(placeholder) => {
                let shown = format!("<{placeholder}>");
                let value = self.value(placeholder, template.literal.span());
                quote_spanned!(at=> __locks_private::value(#shown, &#value))
            }
        });
        quote_spanned!(at=> __locks_private::name(&[#(#pieces),*]))
    }

    /// The argument or field, found where the function's names are, shown at the template.
    fn value(&self, placeholder: &Placeholder, template: Span) -> TokenStream {
        let argument = self
            .params
            .resolve(&placeholder.argument)
            .map(|mut argument| {
                argument.set_span(template.resolved_at(argument.span()));
                argument
            });
        // With a span that is not the user's alone, the compiler does not offer to
        // replace the whole template by the field that it thinks was meant.
        let at = template.resolved_at(Span::mixed_site());
        let fields = placeholder.fields.iter().map(|field| {
            let field = match field.parse() {
                Ok(index) => {
                    let mut index = Literal::usize_unsuffixed(index);
                    index.set_span(at);
                    index.into_token_stream()
                }
                Err(_) => field_name(field, at).into_token_stream(),
            };
            quote_spanned!(at=> .#field)
        });
        quote!(#argument #(#fields)*)
    }

    /// The locks, held; or the function's end.
    fn held(&self) -> TokenStream {
        let ours = Span::mixed_site();
        let enter = match self.flavour {
            Flavour::Awaiting => quote_spanned!(ours=> __locks_private::enter(__locks_call).await),
            Flavour::Blocking => {
                quote_spanned!(ours=> __locks_private::enter_blocking(__locks_call))
            }
        };
        let refused = match &self.args.busy {
            None => quote_spanned! {ours=>
                ::core::result::Result::Err(__locks_error) => {
                    return __locks_returns.fail(__locks_error);
                }
            },
            Some(busy) => {
                let busy = &busy.value;
                let take_apart = self.params.take_apart(&busy.to_token_stream());
                quote_spanned! {ours=>
                    ::core::result::Result::Err(__locks_error)
                        if !__locks_private::is_refused(&__locks_error) =>
                    {
                        return __locks_returns.fail(__locks_error);
                    }
                    ::core::result::Result::Err(_) => {
                        #take_apart
                        // It may return by itself.
                        #[allow(unreachable_code)]
                        return #busy;
                    }
                }
            }
        };
        quote_spanned! {ours=>
            let __locks_held = match #enter {
                ::core::result::Result::Ok(__locks_held) => __locks_held,
                #refused
            };
        }
    }
}

/// `&expr`, as a whole where `expr` stands.
fn reference_to(expr: &Expr) -> ExprReference {
    ExprReference {
        attrs: Vec::new(),
        and_token: Token![&](expr.span().resolved_at(Span::mixed_site())),
        mutability: None,
        expr: Box::new(expr.clone()),
    }
}

fn field_name(name: &str, at: Span) -> Ident {
    if syn::parse_str::<Ident>(name).is_ok() {
        Ident::new(name, at)
    } else {
        format_ident!("r#{name}", span = at)
    }
}

/// Tokens as a person writes a path.
fn written(tokens: &TokenStream) -> String {
    tokens.to_string().replace(' ', "")
}

struct WithoutImplTrait;

impl VisitMut for WithoutImplTrait {
    fn visit_type_mut(&mut self, ty: &mut Type) {
        if matches!(ty, Type::ImplTrait(_)) {
            *ty = parse_quote!(_);
        } else {
            visit_mut::visit_type_mut(self, ty);
        }
    }
}
