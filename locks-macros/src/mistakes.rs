//! All mistakes of one use, so that they are reported together.

use std::fmt::Display;

use proc_macro2::{Span, TokenStream};

/// What is wrong so far.
#[derive(Default)]
pub(crate) struct Mistakes(Vec<syn::Error>);

impl Mistakes {
    /// Remembers `message`, to be shown at `span`.
    pub(crate) fn add(&mut self, span: Span, message: impl Display) {
        self.push(syn::Error::new(span, message));
    }

    pub(crate) fn push(&mut self, error: syn::Error) {
        self.0.push(error);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// One `compile_error!` for each mistake, after the item as it was: editors go on to
    /// know it, and nothing else complains that it is missing.
    pub(crate) fn beside(self, mut item: TokenStream) -> TokenStream {
        item.extend(self.0.iter().map(syn::Error::to_compile_error));
        item
    }
}
