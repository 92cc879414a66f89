//! The attribute macro of `locks-core`.
//!
//! This crate is not for direct use. `locks-core` re-exports the macro, documents it, and has
//! the functions that its expansion calls.

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

// `locks-core` documents it, because the text links to the types of that crate.
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
                Ok((at, false)) => {
                    mistakes.add(at, "`#[with_lock]` can be applied only to functions");
                }
                Ok((_, true)) | Err(_) => mistakes.push(error),
            }
            return mistakes.append_to(item);
        }
    };
    if let Some(expanded) = expand(&args, function.clone(), &mut mistakes) {
        return expanded;
    }
    // The arguments of the template would be reported as unused.
    function
        .attrs
        .push(parse_quote!(#[allow(unused_variables)]));
    mistakes.append_to(function.into_token_stream())
}
