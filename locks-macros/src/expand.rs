//! The expansion: the function with a body that acquires the locks, runs the old body as a
//! future or closure, and releases the locks.
//!
//! ```text
//! names ──▶ lock ──▶ run(body) ──▶ unlock
//!            │ refused
//!            └──▶ `busy`, or the error
//! ```

mod call;

use proc_macro2::{Delimiter, Group, Span, TokenStream, TokenTree};
use quote::{ToTokens, quote, quote_spanned};
use syn::{
    Expr, Stmt, Type, parse_quote,
    spanned::Spanned,
    visit_mut::{self, VisitMut},
};

use crate::{
    args::Args,
    function::{Function, FutureBody, Shape, async_block},
    mistakes::Mistakes,
    params::Params,
    validate::validate,
};

/// The name of the library's hidden module in expansions. Every expansion contains it.
pub(crate) const MARKER: &str = "__locks_private";

/// Returns the new function, or `None` if there are mistakes.
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
    let return_type = match &shape {
        Shape::Future(body) => body.output.clone(),
        Shape::Async | Shape::Sync => function.return_type()?.clone(),
    };
    let expansion = Expansion {
        args,
        params: &params,
        return_type: ReturnType::new(return_type),
        flavour: if matches!(shape, Shape::Sync) {
            Flavour::Blocking
        } else {
            Flavour::Awaiting
        },
    };
    let inside = match shape {
        Shape::Future(body) => expansion.expand_future(*body),
        Shape::Async => expansion.expand_function(&quote!(async move), &body),
        Shape::Sync => {
            let ty = &expansion.return_type.ty;
            expansion.expand_function(&quote!(move || -> #ty), &body)
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
    return_type: ReturnType,
    flavour: Flavour,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Flavour {
    Awaiting,
    Blocking,
}

/// The declared return type in a form that can be repeated inside the function.
struct ReturnType {
    ty: Type,
    /// The position at which an unsuitable type is reported.
    at: Span,
}

impl ReturnType {
    fn new(mut ty: Type) -> Self {
        let at = ty.span();
        ImplTraitToInferred.visit_type_mut(&mut ty);
        Self { ty, at }
    }

    /// Declares the return type of the enclosing `async` block. It must come before the first
    /// `return` or `?` of the block.
    fn declaration(&self) -> TokenStream {
        let Self { ty, at } = self;
        quote_spanned! {*at=>
            #[allow(clippy::needless_return)]
            if false {
                return __locks_private::declare_return_type::<#ty>();
            }
        }
    }
}

impl Expansion<'_> {
    /// The new body of a function that returns a future. The locks are acquired and released
    /// inside its `async` block.
    fn expand_future(&self, mut body: FutureBody) -> TokenStream {
        if let Some(block) = async_block(&mut body.stmts) {
            let capture = block.capture;
            let inside = block.block.to_token_stream();
            if let Some(TokenTree::Group(user)) = inside.into_iter().next() {
                let opener = quote_spanned!(Span::mixed_site()=> async #capture);
                let library = self.library();
                let declaration = self.return_type.declaration();
                let locked = self.locked(&opener, &TokenStream::new(), &user);
                let inside = Expr::Verbatim(quote!(#library #declaration #locked));
                block.block.stmts = vec![Stmt::Expr(inside, None)];
            }
        }
        let stmts = body.stmts;
        quote!(#(#stmts)*)
    }

    /// The new body of an `async` or synchronous function. `opener` starts the future or
    /// closure that runs the old body `user`.
    fn expand_function(&self, opener: &TokenStream, user: &Group) -> TokenStream {
        let library = self.library();
        let prelude = self.params.move_into_body(&self.uses());
        let locked = self.locked(opener, &prelude, user);
        quote!(#library #locked)
    }

    /// Acquires the locks, runs `prelude` and `user` in the future or closure that `opener`
    /// starts, and releases the locks.
    fn locked(&self, opener: &TokenStream, prelude: &TokenStream, user: &Group) -> TokenStream {
        let ours = Span::mixed_site();
        let errors = self.error_conversion();
        let call = self.call();
        let lock = self.lock();
        let guard = self.args.guard.as_ref().map(|_| {
            quote_spanned! {ours=>
                let __locks_guard = __locks_private::guard(&__locks_locked_call);
            }
        });
        let body = self.body(opener, prelude, user);
        let run = match self.flavour {
            Flavour::Awaiting => quote_spanned! {ours=>
                let __locks_value = {
                    let __locks_body = ::core::pin::pin!(#body);
                    let __locks_value =
                        __locks_private::run(&__locks_locked_call, __locks_errors, __locks_body)
                            .await;
                    __locks_value
                };
                __locks_private::unlock(__locks_locked_call, __locks_errors, __locks_value).await
            },
            Flavour::Blocking => quote_spanned! {ours=>
                let __locks_value = __locks_private::run_blocking(&__locks_locked_call, #body);
                __locks_private::unlock_blocking(
                    __locks_locked_call,
                    __locks_errors,
                    __locks_value,
                )
            },
        };
        quote_spanned! {ours=>
            #errors
            #call
            #lock
            #guard
            #run
        }
    }

    /// The future or closure that runs the old body.
    fn body(&self, opener: &TokenStream, prelude: &TokenStream, user: &Group) -> TokenStream {
        let ours = Span::mixed_site();
        let declaration = match self.flavour {
            Flavour::Awaiting => self.return_type.declaration(),
            Flavour::Blocking => TokenStream::new(),
        };
        let bind_guard = self.args.guard.as_ref().map(|guard| {
            let name = &guard.value;
            quote_spanned!(ours=> let #name = __locks_guard;)
        });
        let ty = &self.return_type.ty;
        // The old body is a statement of its own. What its last expression borrows ends there.
        quote_spanned! {ours=>
            #opener {
                #declaration
                #prelude
                #bind_guard
                #[allow(unused_braces, clippy::diverging_sub_expression)]
                let __locks_value: #ty = #user;
                #[allow(unreachable_code)]
                __locks_value
            }
        }
    }

    /// Names the library's hidden module and the matrix.
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

    /// The conversion of the library's errors into the function's return type.
    fn error_conversion(&self) -> TokenStream {
        let ours = Span::mixed_site();
        let ReturnType { ty, at } = &self.return_type;
        let errors = match &self.args.map_err {
            None => quote_spanned!(*at=> __locks_private::from_lock_error::<#ty, _>()),
            Some(map_err) => {
                let path = &map_err.value;
                let result_type = quote_spanned!(*at=> __locks_private::result_type::<#ty, _>());
                let map_err = quote_spanned!(path.span().resolved_at(ours)=> .map_err(#path));
                quote!(#result_type #map_err)
            }
        };
        quote_spanned!(ours=> let __locks_errors = #errors;)
    }

    /// Acquires the locks, or returns from the function.
    fn lock(&self) -> TokenStream {
        let ours = Span::mixed_site();
        let lock = match self.flavour {
            Flavour::Awaiting => quote_spanned!(ours=> __locks_private::lock(__locks_call).await),
            Flavour::Blocking => {
                quote_spanned!(ours=> __locks_private::lock_blocking(__locks_call))
            }
        };
        let refused = match &self.args.busy {
            None => quote_spanned! {ours=>
                ::core::result::Result::Err(__locks_error) => {
                    return __locks_errors.convert(__locks_error);
                }
            },
            Some(busy) => {
                let busy = &busy.value;
                let destructure = self.params.destructure(&busy.to_token_stream());
                // The expression may itself contain a `return`.
                quote_spanned! {ours=>
                    ::core::result::Result::Err(__locks_error)
                        if !__locks_private::is_refused(&__locks_error) =>
                    {
                        return __locks_errors.convert(__locks_error);
                    }
                    ::core::result::Result::Err(_) => {
                        #destructure
                        #[allow(unreachable_code)]
                        return #busy;
                    }
                }
            }
        };
        quote_spanned! {ours=>
            let __locks_locked_call = match #lock {
                ::core::result::Result::Ok(__locks_locked_call) => __locks_locked_call,
                #refused
            };
        }
    }
}

/// Replaces every `impl Trait` by `_`.
struct ImplTraitToInferred;

impl VisitMut for ImplTraitToInferred {
    fn visit_type_mut(&mut self, ty: &mut Type) {
        if matches!(ty, Type::ImplTrait(_)) {
            *ty = parse_quote!(_);
        } else {
            visit_mut::visit_type_mut(self, ty);
        }
    }
}
