//! The parameters of the function, and how they move into the body.
//!
//! Every parameter moves into the body, even if the body does not use it. A value that stayed
//! outside would be dropped after the lock is released. A parameter with a simple pattern
//! keeps its name. If the pattern does not bind the whole value (`_`, `..`, `ref`), the
//! parameter gets a generated name, and the body destructures it.

use proc_macro2::{Ident, Span, TokenStream};
use quote::{format_ident, quote};
use syn::{
    Attribute, Expr, FnArg, Local, Pat, PatIdent, Receiver, Signature, Stmt, Token,
    ext::IdentExt,
    visit::{self, Visit},
    visit_mut::{self, VisitMut},
};

use crate::function::{is_named, mentions};

/// The parameters of one function.
pub(crate) struct Params {
    receiver: Option<Receiver>,
    params: Vec<Param>,
}

enum Param {
    /// The names are bound by the parameter and move into the body one by one.
    Named(Vec<Binding>),
    /// The parameter is named `whole`, and the body destructures it with `pat`.
    Whole {
        whole: Ident,
        pat: Box<Pat>,
        attrs: Attrs,
    },
}

/// A name that a pattern binds.
struct Binding {
    ident: Ident,
    mutability: Option<Token![mut]>,
    attrs: Attrs,
}

/// The attributes of a parameter that are repeated on its `let` in the body.
#[derive(Clone, Default)]
struct Attrs {
    cfgs: Vec<Attribute>,
    lints: Vec<Attribute>,
}

impl Params {
    /// Changes `sig` so that all parameters can move into the body.
    ///
    /// With `keep_patterns` no parameter is renamed, because other macros may read the
    /// patterns. Values that a pattern does not bind are then dropped last, as in a function
    /// without the attribute.
    pub(crate) fn take(sig: &mut Signature, keep_patterns: bool) -> Self {
        let mut receiver = None;
        let mut params = Vec::new();
        for (index, input) in sig.inputs.iter_mut().enumerate() {
            let input = match input {
                FnArg::Receiver(this) => {
                    receiver = Some(this.clone());
                    continue;
                }
                FnArg::Typed(input) => input,
            };
            let attrs = Attrs::take(&mut input.attrs);
            if binds_partially(&input.pat) && !keep_patterns {
                let whole = format_ident!("__locks_arg{index}", span = Span::mixed_site());
                let ident = PatIdent {
                    attrs: Vec::new(),
                    by_ref: None,
                    mutability: None,
                    ident: whole.clone(),
                    subpat: None,
                };
                let pat = std::mem::replace(&mut *input.pat, Pat::Ident(ident));
                params.push(Param::Whole {
                    whole,
                    pat: Box::new(pat),
                    attrs,
                });
            } else {
                let mut bindings = bindings(&input.pat);
                for binding in &mut bindings {
                    binding.attrs = attrs.clone();
                }
                WithoutMut.visit_pat_mut(&mut input.pat);
                params.push(Param::Named(bindings));
            }
        }
        Self { receiver, params }
    }

    /// The parameters of a function that returns a future. Its body already moves them.
    /// `#[async_trait]` renames parameters with a pattern and destructures them at the start
    /// of `future`.
    pub(crate) fn of_future(sig: &Signature, future: &[Stmt]) -> Self {
        let mut params = Self::take(&mut sig.clone(), true);
        let locals = future.iter().filter_map(|stmt| match stmt {
            Stmt::Local(local) => destructured(local),
            _ => None,
        });
        for (source, pat) in locals {
            for param in &mut params.params {
                if param.is_single(source) {
                    *param = Param::Whole {
                        whole: source.clone(),
                        pat: Box::new(pat.clone()),
                        attrs: Attrs::default(),
                    };
                }
            }
        }
        params
    }

    /// The identifier of the parameter that a placeholder names.
    pub(crate) fn resolve(&self, name: &str) -> Option<Ident> {
        if name == "self" {
            let receiver = self.receiver.as_ref()?;
            return Some(Ident::new("self", receiver.self_token.span));
        }
        self.idents()
            .into_iter()
            .find(|ident| is_named(ident, name))
    }

    /// All names that a placeholder may start with.
    pub(crate) fn names(&self) -> Vec<String> {
        let this = self.receiver.iter().map(|_| "self".to_owned());
        this.chain(self.idents().iter().map(ToString::to_string))
            .collect()
    }

    /// Binds the names in `used` that belong to [`Param::Whole`] parameters, by reference.
    pub(crate) fn borrow(&self, used: &TokenStream) -> TokenStream {
        let borrows = self.whole_params(used).map(|(whole, pat, attrs)| {
            let mut pat = pat.clone();
            ByReference.visit_pat_mut(&mut pat);
            let cfgs = &attrs.cfgs;
            quote!(#(#cfgs)* #[allow(unused_variables)] let #pat = &#whole;)
        });
        quote!(#(#borrows)*)
    }

    /// Destructures the [`Param::Whole`] parameters with a name in `used`, by value. The
    /// expression of `busy` uses them.
    pub(crate) fn destructure(&self, used: &TokenStream) -> TokenStream {
        let lets = self.whole_params(used).map(|(whole, pat, attrs)| {
            let cfgs = &attrs.cfgs;
            quote!(#(#cfgs)* #[allow(unused_variables, unused_mut)] let #pat = #whole;)
        });
        quote!(#(#lets)*)
    }

    /// The [`Param::Whole`] parameters with a name in `used`.
    fn whole_params(&self, used: &TokenStream) -> impl Iterator<Item = (&Ident, &Pat, &Attrs)> {
        self.params.iter().filter_map(move |param| match param {
            Param::Whole { whole, pat, attrs } if is_used(&bindings(pat), used) => {
                Some((whole, &**pat, attrs))
            }
            _ => None,
        })
    }

    /// Moves all parameters into the body. Names in `used` are marked as used; the compiler
    /// still warns of other names that the body does not use.
    pub(crate) fn move_into_body(&self, used: &TokenStream) -> TokenStream {
        let this = self.receiver.iter().map(|receiver| {
            let this = receiver.self_token;
            quote!(__locks_private::move_into_body(&#this);)
        });
        let params = self.params.iter().map(|param| match param {
            Param::Named(bindings) => {
                let lets = bindings.iter().map(Binding::move_into_body);
                let used = mark_as_used(bindings, used);
                quote!(#(#lets)* #used)
            }
            Param::Whole {
                whole,
                pat,
                attrs: Attrs { cfgs, lints },
            } => {
                let used = mark_as_used(&bindings(pat), used);
                // The pattern alone would capture only the values that it binds.
                quote! {
                    #(#cfgs)* __locks_private::move_into_body(&#whole);
                    #(#cfgs)* #(#lints)* let #pat = #whole;
                    #used
                }
            }
        });
        quote!(#(#this)* #(#params)*)
    }

    fn idents(&self) -> Vec<Ident> {
        let named = |param: &Param| match param {
            Param::Named(bindings) => bindings.iter().map(|b| b.ident.clone()).collect(),
            Param::Whole { pat, .. } => bindings(pat)
                .into_iter()
                .map(|b| b.ident)
                .collect::<Vec<_>>(),
        };
        self.params.iter().flat_map(named).collect()
    }
}

impl Param {
    /// Whether the parameter binds `name` and nothing else.
    fn is_single(&self, name: &Ident) -> bool {
        matches!(self, Self::Named(bindings)
            if matches!(&bindings[..], [only] if only.ident == *name))
    }
}

impl Binding {
    fn is_used(&self, used: &TokenStream) -> bool {
        mentions(used.clone(), &self.ident.unraw().to_string())
    }

    fn move_into_body(&self) -> TokenStream {
        let Self {
            ident,
            mutability,
            attrs: Attrs { cfgs, lints },
        } = self;
        quote! {
            #(#cfgs)* #(#lints)*
            #[allow(
                clippy::no_effect_underscore_binding,
                clippy::redundant_locals,
                clippy::shadow_same,
                clippy::used_underscore_binding
            )]
            let #mutability #ident = #ident;
        }
    }
}

impl Attrs {
    /// Moves the lint attributes, because an `expect` on the parameter would be unfulfilled,
    /// and copies the `cfg` attributes, which both places need.
    fn take(attrs: &mut Vec<Attribute>) -> Self {
        const LINTS: [&str; 5] = ["allow", "deny", "expect", "forbid", "warn"];
        let is_lint = |attr: &Attribute| LINTS.iter().any(|lint| attr.path().is_ident(lint));
        let lints = attrs.extract_if(.., |attr| is_lint(attr)).collect();
        let is_cfg = |attr: &&Attribute| attr.path().is_ident("cfg");
        let cfgs = attrs.iter().filter(is_cfg).cloned().collect();
        Self { cfgs, lints }
    }
}

/// The variable and the pattern of `let (a, b) = variable;`. The variable may be the value of
/// a block.
fn destructured(local: &Local) -> Option<(&Ident, &Pat)> {
    let source = match &*local.init.as_ref()?.expr {
        Expr::Block(block) => match block.block.stmts.last()? {
            Stmt::Expr(last, None) => last,
            _ => return None,
        },
        expr => expr,
    };
    let Expr::Path(source) = source else {
        return None;
    };
    match &local.pat {
        Pat::Ident(_) => None,
        pat => Some((source.path.get_ident()?, pat)),
    }
}

fn is_used(bindings: &[Binding], used: &TokenStream) -> bool {
    bindings.iter().any(|binding| binding.is_used(used))
}

/// Keeps the compiler from warning of names that only the expansion uses.
fn mark_as_used(bindings: &[Binding], used: &TokenStream) -> TokenStream {
    let marks = bindings
        .iter()
        .filter(|binding| binding.is_used(used))
        .map(|binding| {
            let Binding {
                ident,
                attrs: Attrs { cfgs, .. },
                ..
            } = binding;
            quote!(#(#cfgs)* __locks_private::move_into_body(&#ident);)
        });
    quote!(#(#marks)*)
}

/// The names that `pat` binds.
fn bindings(pat: &Pat) -> Vec<Binding> {
    struct Bindings(Vec<Binding>);
    impl<'ast> Visit<'ast> for Bindings {
        fn visit_pat_ident(&mut self, pat: &'ast PatIdent) {
            self.0.push(Binding {
                ident: pat.ident.clone(),
                mutability: pat.mutability,
                attrs: Attrs::default(),
            });
            visit::visit_pat_ident(self, pat);
        }
    }
    let mut bindings = Bindings(Vec::new());
    bindings.visit_pat(pat);
    bindings.0
}

/// Whether a part of the value may stay in the parameter when all names are moved.
fn binds_partially(pat: &Pat) -> bool {
    match pat {
        Pat::Ident(pat) => pat.by_ref.is_some() || pat.subpat.is_some(),
        Pat::Paren(pat) => binds_partially(&pat.pat),
        Pat::Tuple(pat) => pat.elems.iter().any(binds_partially),
        Pat::TupleStruct(pat) => pat.elems.iter().any(binds_partially),
        Pat::Slice(pat) => pat.elems.iter().any(binds_partially),
        Pat::Struct(pat) => {
            pat.rest.is_some() || pat.fields.iter().any(|field| binds_partially(&field.pat))
        }
        // A value behind a reference is not dropped.
        Pat::Reference(_) => false,
        _ => true,
    }
}

/// Removes `mut` from the names in a parameter. It belongs on their `let` in the body.
struct WithoutMut;

impl VisitMut for WithoutMut {
    fn visit_pat_ident_mut(&mut self, pat: &mut PatIdent) {
        pat.mutability = None;
        visit_mut::visit_pat_ident_mut(self, pat);
    }
}

/// Changes a pattern so that it matches a reference and borrows all names.
struct ByReference;

impl VisitMut for ByReference {
    fn visit_pat_mut(&mut self, pat: &mut Pat) {
        while let Pat::Reference(reference) = pat {
            *pat = (*reference.pat).clone();
        }
        visit_mut::visit_pat_mut(self, pat);
    }

    fn visit_pat_ident_mut(&mut self, pat: &mut PatIdent) {
        pat.by_ref = None;
        pat.mutability = None;
        visit_mut::visit_pat_ident_mut(self, pat);
    }
}
