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

/// A parameter. Its names move into the body one by one, unless it moves as a whole.
struct Param {
    bindings: Vec<Binding>,
    attrs: Attrs,
    whole: Option<Whole>,
}

/// A parameter that moves into the body as a whole, where its pattern destructures it.
struct Whole {
    ident: Ident,
    pat: Pat,
}

/// A name that a pattern binds.
struct Binding {
    ident: Ident,
    mutability: Option<Token![mut]>,
}

/// The attributes of a parameter that are repeated on its `let` in the body.
#[derive(Default)]
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
            let bindings = bindings(&input.pat);
            let whole = if binds_partially(&input.pat) && !keep_patterns {
                let ident = format_ident!("__locks_arg{index}", span = Span::mixed_site());
                let generated = Pat::Ident(PatIdent {
                    attrs: Vec::new(),
                    by_ref: None,
                    mutability: None,
                    ident: ident.clone(),
                    subpat: None,
                });
                let pat = std::mem::replace(&mut *input.pat, generated);
                Some(Whole { ident, pat })
            } else {
                WithoutMut.visit_pat_mut(&mut input.pat);
                None
            };
            params.push(Param {
                bindings,
                attrs,
                whole,
            });
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
                    *param = Param {
                        bindings: bindings(pat),
                        attrs: Attrs::default(),
                        whole: Some(Whole {
                            ident: source.clone(),
                            pat: pat.clone(),
                        }),
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
        self.idents().find(|ident| is_named(ident, name)).cloned()
    }

    /// All names that a placeholder may start with.
    pub(crate) fn names(&self) -> Vec<String> {
        let this = self.receiver.iter().map(|_| "self".to_owned());
        this.chain(self.idents().map(ToString::to_string)).collect()
    }

    /// Binds the names in `used` that belong to a [`Whole`] parameter, by reference.
    pub(crate) fn borrow(&self, used: &TokenStream) -> TokenStream {
        let borrows = self
            .whole_params(used)
            .map(|(Whole { ident, pat }, attrs)| {
                let mut pat = pat.clone();
                ByReference.visit_pat_mut(&mut pat);
                let cfgs = &attrs.cfgs;
                quote!(#(#cfgs)* #[allow(unused_variables)] let #pat = &#ident;)
            });
        quote!(#(#borrows)*)
    }

    /// Destructures the [`Whole`] parameters with a name in `used`, by value. The expression of
    /// `busy` uses them.
    pub(crate) fn destructure(&self, used: &TokenStream) -> TokenStream {
        let lets = self
            .whole_params(used)
            .map(|(Whole { ident, pat }, attrs)| {
                let cfgs = &attrs.cfgs;
                quote!(#(#cfgs)* #[allow(unused_variables, unused_mut)] let #pat = #ident;)
            });
        quote!(#(#lets)*)
    }

    /// The [`Whole`] parameters with a name in `used`.
    fn whole_params(&self, used: &TokenStream) -> impl Iterator<Item = (&Whole, &Attrs)> {
        let in_use = move |param: &&Param| param.bindings.iter().any(|b| b.is_used(used));
        let params = self.params.iter().filter(in_use);
        params.filter_map(|param| Some((param.whole.as_ref()?, &param.attrs)))
    }

    /// Moves all parameters into the body. Names in `used` are marked as used; the compiler
    /// still warns of other names that the body does not use.
    pub(crate) fn move_into_body(&self, used: &TokenStream) -> TokenStream {
        let this = self.receiver.iter().map(|receiver| {
            let this = receiver.self_token;
            quote!(__locks_private::move_into_body(&#this);)
        });
        let params = self.params.iter().map(|param| param.move_into_body(used));
        quote!(#(#this)* #(#params)*)
    }

    fn idents(&self) -> impl Iterator<Item = &Ident> {
        let bindings = self.params.iter().flat_map(|param| &param.bindings);
        bindings.map(|binding| &binding.ident)
    }
}

impl Param {
    /// Whether the parameter binds `name` and nothing else.
    fn is_single(&self, name: &Ident) -> bool {
        self.whole.is_none() && matches!(&self.bindings[..], [only] if only.ident == *name)
    }

    fn move_into_body(&self, used: &TokenStream) -> TokenStream {
        let Attrs { cfgs, lints } = &self.attrs;
        let lets = if let Some(Whole { ident, pat }) = &self.whole {
            // The pattern alone would capture only the values that it binds.
            quote! {
                #(#cfgs)* __locks_private::move_into_body(&#ident);
                #(#cfgs)* #(#lints)* let #pat = #ident;
            }
        } else {
            let lets = self.bindings.iter().map(|binding| {
                let Binding { ident, mutability } = binding;
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
            });
            quote!(#(#lets)*)
        };
        // Without the mark, the compiler would warn of names that only the expansion uses.
        let in_use = self.bindings.iter().filter(|binding| binding.is_used(used));
        let marks = in_use.map(
            |Binding { ident, .. }| quote!(#(#cfgs)* __locks_private::move_into_body(&#ident);),
        );
        quote!(#lets #(#marks)*)
    }
}

impl Binding {
    fn is_used(&self, used: &TokenStream) -> bool {
        mentions(used.clone(), &self.ident.unraw().to_string())
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

/// The names that `pat` binds.
fn bindings(pat: &Pat) -> Vec<Binding> {
    struct Bindings(Vec<Binding>);
    impl<'ast> Visit<'ast> for Bindings {
        fn visit_pat_ident(&mut self, pat: &'ast PatIdent) {
            self.0.push(Binding {
                ident: pat.ident.clone(),
                mutability: pat.mutability,
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
