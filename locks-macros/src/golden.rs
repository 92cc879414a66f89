//! Comparisons of whole expansions with files. They show how a change to the macro changes
//! what it emits.
//!
//! `LOCKS_BLESS=1 cargo test -p locks-macros` updates the files.

use std::{env, fs, path::Path};

use quote::ToTokens;
use syn::{Item, Meta};

#[test]
fn async_function() {
    check("async_function");
}

#[test]
fn sync_method() {
    check("sync_method");
}

#[test]
fn boxed_future() {
    check("boxed_future");
}

#[test]
fn all_options() {
    check("all_options");
}

#[test]
fn mistakes() {
    check("mistakes");
}

/// Expands `golden/<name>.rs`, one annotated function, and compares the result with
/// `golden/<name>.expanded.rs`.
fn check(name: &str) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden");
    let input = fs::read_to_string(dir.join(name).with_extension("rs")).unwrap();
    let mut file = syn::parse_file(&input).unwrap();
    let Some(Item::Fn(function)) = file.items.last_mut() else {
        panic!("{name}.rs does not end with a function");
    };
    let Meta::List(attr) = function.attrs.remove(0).meta else {
        panic!("the function in {name}.rs does not start with `#[with_lock(…)]`");
    };
    let expanded = crate::attribute(attr.tokens, function.to_token_stream());
    let expanded = prettyplease::unparse(&syn::parse2(expanded).unwrap());

    let expected = dir.join(format!("{name}.expanded.rs"));
    if env::var_os("LOCKS_BLESS").is_some() {
        fs::write(&expected, &expanded).unwrap();
    }
    let expected = fs::read_to_string(&expected).unwrap();
    assert!(
        expected == expanded,
        "the expansion of {name}.rs is now:\n{expanded}"
    );
}
