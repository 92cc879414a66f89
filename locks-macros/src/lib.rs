//! The attribute macro of `locks-core`.
//!
//! Not for direct use: `locks-core` re-exports it, documents it, and holds the
//! functions that its expansion calls.

mod args;
mod expand;
mod function;
#[cfg(test)]
mod golden;
mod mistakes;
mod params;
mod template;
mod validate;

use proc_macro::TokenStream;
use quote::ToTokens;
use syn::{parse::Parser, parse_quote};

use crate::{args::Args, expand::expand, function::Function, mistakes::Mistakes};

// Documented where it is re-exported, beside the types it speaks of.
#[allow(missing_docs)]
#[proc_macro_attribute]
pub fn with_lock(args: TokenStream, item: TokenStream) -> TokenStream {
    attribute(args.into(), item.into()).into()
}

fn attribute(
    args: proc_macro2::TokenStream,
    item: proc_macro2::TokenStream,
) -> proc_macro2::TokenStream {
    let mut mistakes = Mistakes::default();
    let args = Args::parse(args, &mut mistakes);
    let mut function = match syn::parse2::<Function>(item.clone()) {
        Ok(function) => function,
        Err(error) => {
            match function::head.parse2(item.clone()) {
                Ok((at, false)) => mistakes.add(at, "`#[with_lock]` is for functions"),
                Ok((_, true)) | Err(_) => mistakes.push(error),
            }
            return mistakes.beside(item);
        }
    };
    if let Some(expanded) = expand(&args, function.clone(), &mut mistakes) {
        return expanded;
    }
    // Without the template, its arguments seem unused.
    function
        .attrs
        .push(parse_quote!(#[allow(unused_variables)]));
    mistakes.beside(function.into_token_stream())
}
