//! The part of the expansion that describes the call: names, options and matrix.

use proc_macro2::{Ident, Literal, Span, TokenStream};
use quote::{ToTokens, format_ident, quote, quote_spanned};
use syn::{Expr, ExprReference, Token, spanned::Spanned};

use super::Expansion;
use crate::{
    args::{OnLost, WaitPolicy},
    template::{Part, Placeholder, Template},
};

impl Expansion<'_> {
    /// Where the expansion uses arguments outside the body.
    pub(super) fn uses(&self) -> TokenStream {
        let mut uses = self.call_uses();
        if let Some(busy) = &self.args.busy {
            busy.value.to_tokens(&mut uses);
        }
        uses
    }

    /// Where the description of the call uses arguments.
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

    /// The matrix, and the check of each template against it.
    pub(super) fn matrix(&self) -> Option<TokenStream> {
        let ours = Span::mixed_site();
        let path = &self.args.matrix.as_ref()?.value;
        let checks = self.args.templates.iter().map(|template| {
            let at = template.literal.span().resolved_at(ours);
            let prefix = template.literal_prefix();
            let known = if template.placeholders().next().is_some() {
                quote_spanned!(at=> __locks_private::Known::Prefix(#prefix))
            } else {
                quote_spanned!(at=> __locks_private::Known::Name(#prefix))
            };
            let message = format!(
                "{:?} matches no pattern of `{}`: correct its spelling, or add a rule for it",
                template.literal.value(),
                path.to_token_stream().to_string().replace(' ', ""),
            );
            quote_spanned! {at=>
                const _: () = __locks_private::assert_in_matrix(
                    &__LOCKS_MATRIX,
                    #known,
                    #message,
                );
            }
        });
        Some(quote_spanned! {ours=>
            const __LOCKS_MATRIX: __locks_private::ConflictMatrix = #path;
            #(#checks)*
        })
    }

    /// Describes the call. The values of the names are used in a statement of their own. If
    /// they lived across an `await`, they would have to be `Sync`.
    pub(super) fn call(&self) -> TokenStream {
        let ours = Span::mixed_site();
        let names = self
            .args
            .templates
            .iter()
            .filter(|template| !template.shared);
        let names = names.map(|template| self.name(template));
        let options = self.options();
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

    /// The method calls that set the options which differ from the defaults.
    fn options(&self) -> TokenStream {
        let ours = Span::mixed_site();
        let args = self.args;
        let wait_policy = args.wait_policy.as_ref().map(|policy| match policy.value {
            WaitPolicy::NoWait => quote_spanned!(ours=> .no_wait()),
            WaitPolicy::Wait { timeout: None } => TokenStream::new(),
            WaitPolicy::Wait {
                timeout: Some(limit),
            } => {
                let (secs, nanos) = (limit.as_secs(), limit.subsec_nanos());
                quote_spanned!(ours=> .timeout(#secs, #nanos))
            }
        });
        let on_lost = args.on_lost.as_ref().map(|on_lost| match on_lost.value {
            OnLost::Cancel => TokenStream::new(),
            OnLost::Continue => quote_spanned!(ours=> .continue_when_lost()),
        });
        let matrix = args.matrix.as_ref();
        let matrix = matrix.map(|_| quote_spanned!(ours=> .matrix(&__LOCKS_MATRIX)));
        let manager = args.locks.as_ref().map(|locks| {
            let expr = reference_to(&locks.value);
            quote_spanned!(locks.value.span().resolved_at(ours)=> .manager(#expr))
        });
        let max_hold = args.max_hold.as_ref().map(|limit| {
            let (secs, nanos) = (limit.value.as_secs(), limit.value.subsec_nanos());
            quote_spanned!(ours=> .max_hold(#secs, #nanos))
        });
        let shared = args.templates.iter().filter(|template| template.shared);
        let shared: Vec<_> = shared.map(|template| self.name(template)).collect();
        let shared = (!shared.is_empty()).then(|| quote_spanned!(ours=> .shared([#(#shared),*])));
        quote!(#shared #wait_policy #max_hold #on_lost #matrix #manager)
    }

    /// The expression that computes one name.
    fn name(&self, template: &Template) -> TokenStream {
        let at = template.literal.span().resolved_at(Span::mixed_site());
        let parts = template.parts.iter().map(|part| match part {
            Part::Text(text) => quote_spanned!(at=> __locks_private::text(#text)),
            Part::Placeholder(placeholder) => {
                let written = format!("<{placeholder}>");
                let value = self.value(placeholder, template.literal.span());
                quote_spanned!(at=> __locks_private::value(#written, &#value))
            }
        });
        quote_spanned!(at=> __locks_private::name(&[#(#parts),*]))
    }

    /// The argument or field that replaces a placeholder. The argument is resolved among the
    /// function's names, and errors are reported at the template.
    fn value(&self, placeholder: &Placeholder, template: Span) -> TokenStream {
        let argument = self
            .params
            .resolve(&placeholder.argument)
            .map(|mut argument| {
                argument.set_span(template.resolved_at(argument.span()));
                argument
            });
        // With the template's own span, the compiler would offer to replace the whole
        // template by a field with a similar name.
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
}

/// `&expr`, with the span of `expr`.
fn reference_to(expr: &Expr) -> ExprReference {
    ExprReference {
        attrs: Vec::new(),
        and_token: Token![&](expr.span().resolved_at(Span::mixed_site())),
        mutability: None,
        expr: Box::new(expr.clone()),
    }
}

/// The identifier of a field, raw if the name is a keyword.
fn field_name(name: &str, at: Span) -> Ident {
    if syn::parse_str::<Ident>(name).is_ok() {
        Ident::new(name, at)
    } else {
        format_ident!("r#{name}", span = at)
    }
}
