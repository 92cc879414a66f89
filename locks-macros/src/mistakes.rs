//! The mistakes in one use of the attribute. They are reported together.

use std::fmt::Display;

use proc_macro2::{Span, TokenStream};

/// The mistakes found so far.
#[derive(Default)]
pub(crate) struct Mistakes(Vec<syn::Error>);

impl Mistakes {
    /// Adds a mistake with `message`, which is reported at `span`.
    pub(crate) fn add(&mut self, span: Span, message: impl Display) {
        self.push(syn::Error::new(span, message));
    }

    pub(crate) fn push(&mut self, error: syn::Error) {
        self.0.push(error);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Appends one `compile_error!` for each mistake to the unchanged item. Editors then
    /// still know the item, and the compiler does not report it as missing.
    pub(crate) fn append_to(self, mut item: TokenStream) -> TokenStream {
        item.extend(self.0.iter().map(syn::Error::to_compile_error));
        item
    }
}
