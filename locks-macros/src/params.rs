//! What becomes of the parameters.
//!
//! All of them move into the body, also those it does not use, because whatever stays
//! outside would be dropped after the lock. A plain one keeps its name; one whose
//! pattern leaves something behind (`_`, `..`, `ref`) is taken whole under a name of
//! ours and taken apart inside.

use proc_macro2::{Ident, Span, TokenStream};
use quote::{format_ident, quote};
use syn::{
    Attribute, Expr, FnArg, Local, Pat, PatIdent, Receiver, Signature, Stmt, Token,
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
    /// Its names are in scope from the start and move into the body one by one.
    Named(Vec<Binding>),
    /// It is in scope as `whole` and taken apart by `pat` in the body.
    Whole {
        whole: Ident,
        pat: Box<Pat>,
        attrs: Attrs,
    },
}

struct Binding {
    ident: Ident,
    mutability: Option<Token![mut]>,
    attrs: Attrs,
}

/// The attributes of a parameter that its `let` in the body needs.
#[derive(Clone, Default)]
struct Attrs {
    cfgs: Vec<Attribute>,
    lints: Vec<Attribute>,
}

impl Params {
    /// Prepares `sig` so that all parameters can move into its body.
    ///
    /// With `keep_patterns` none is renamed, for the sake of other macros that look at
    /// them; then what a pattern leaves behind is dropped last, as without us.
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
            if leaves_something(&input.pat) && !keep_patterns {
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

    /// The parameters of a function that returns a future: its body moves them
    /// itself. `#[async_trait]` has renamed those with a pattern and takes them apart
    /// at the start of `future`.
    pub(crate) fn of_future(sig: &Signature, future: &[Stmt]) -> Self {
        let mut params = Self::take(&mut sig.clone(), true);
        let locals = future.iter().filter_map(|stmt| match stmt {
            Stmt::Local(local) => takes_apart(local),
            _ => None,
        });
        for (source, pat) in locals {
            for param in &mut params.params {
                if param.is_just(source) {
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

    /// The name as a placeholder has it, as an identifier that the function knows.
    pub(crate) fn resolve(&self, name: &str) -> Option<Ident> {
        if name == "self" {
            let receiver = self.receiver.as_ref()?;
            return Some(Ident::new("self", receiver.self_token.span));
        }
        self.idents()
            .into_iter()
            .find(|ident| is_named(ident, name))
    }

    /// All names a placeholder may start with.
    pub(crate) fn names(&self) -> Vec<String> {
        let this = self.receiver.iter().map(|_| "self".to_owned());
        this.chain(self.idents().iter().map(ToString::to_string))
            .collect()
    }

    /// Refers to what `used` mentions of the patterns of whole parameters.
    pub(crate) fn borrow(&self, used: &TokenStream) -> TokenStream {
        let borrows = self.taken_apart(used).map(|(whole, pat, attrs)| {
            let mut pat = pat.clone();
            Structure.visit_pat_mut(&mut pat);
            let cfgs = &attrs.cfgs;
            quote!(#(#cfgs)* #[allow(unused_variables)] let #pat = &#whole;)
        });
        quote!(#(#borrows)*)
    }

    /// Takes apart the whole parameters that `used` mentions parts of, for an expression
    /// in place of the body.
    pub(crate) fn take_apart(&self, used: &TokenStream) -> TokenStream {
        let lets = self.taken_apart(used).map(|(whole, pat, attrs)| {
            let cfgs = &attrs.cfgs;
            quote!(#(#cfgs)* #[allow(unused_variables, unused_mut)] let #pat = #whole;)
        });
        quote!(#(#lets)*)
    }

    fn taken_apart(&self, used: &TokenStream) -> impl Iterator<Item = (&Ident, &Pat, &Attrs)> {
        self.params.iter().filter_map(move |param| match param {
            Param::Whole { whole, pat, attrs } if is_mentioned(&bindings(pat), used) => {
                Some((whole, &**pat, attrs))
            }
            _ => None,
        })
    }

    /// Moves everything into the body. Names that `used` mentions count as used; the
    /// compiler goes on to warn of others that the body does not use.
    pub(crate) fn move_in(&self, used: &TokenStream) -> TokenStream {
        let this = self.receiver.iter().map(|receiver| {
            let this = receiver.self_token;
            quote!(__locks_private::mention(&#this);)
        });
        let params = self.params.iter().map(|param| match param {
            Param::Named(bindings) => {
                let lets = bindings.iter().map(Binding::move_in);
                let used = count_as_used(bindings, used);
                quote!(#(#lets)* #used)
            }
            Param::Whole {
                whole,
                pat,
                attrs: Attrs { cfgs, lints },
            } => {
                let used = count_as_used(&bindings(pat), used);
                // Mentioned, because the pattern alone would leave the rest outside.
                quote! {
                    #(#cfgs)* __locks_private::mention(&#whole);
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
    fn is_just(&self, name: &Ident) -> bool {
        matches!(self, Self::Named(bindings)
            if matches!(&bindings[..], [only] if only.ident == *name))
    }
}

impl Binding {
    fn is_mentioned(&self, used: &TokenStream) -> bool {
        mentions(used.clone(), &bare(&self.ident))
    }

    fn move_in(&self) -> TokenStream {
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
    /// Lint attributes move away, or an `expect` would be unfulfilled; `cfg`s are
    /// needed in both places.
    fn take(attrs: &mut Vec<Attribute>) -> Self {
        const LINTS: [&str; 5] = ["allow", "deny", "expect", "forbid", "warn"];
        let is_lint = |attr: &Attribute| LINTS.iter().any(|lint| attr.path().is_ident(lint));
        let lints = attrs.extract_if(.., |attr| is_lint(attr)).collect();
        let is_cfg = |attr: &&Attribute| attr.path().is_ident("cfg");
        let cfgs = attrs.iter().filter(is_cfg).cloned().collect();
        Self { cfgs, lints }
    }
}

/// The variable and the pattern in `let (a, b) = variable;`, also from a block.
fn takes_apart(local: &Local) -> Option<(&Ident, &Pat)> {
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

fn is_mentioned(bindings: &[Binding], used: &TokenStream) -> bool {
    bindings.iter().any(|binding| binding.is_mentioned(used))
}

/// Keeps the compiler from warning of names that only we use.
fn count_as_used(bindings: &[Binding], used: &TokenStream) -> TokenStream {
    let mentions = bindings
        .iter()
        .filter(|binding| binding.is_mentioned(used))
        .map(|binding| {
            let Binding {
                ident,
                attrs: Attrs { cfgs, .. },
                ..
            } = binding;
            quote!(#(#cfgs)* __locks_private::mention(&#ident);)
        });
    quote!(#(#mentions)*)
}

/// Without `r#`.
fn bare(ident: &Ident) -> String {
    let text = ident.to_string();
    text.strip_prefix("r#").map(str::to_owned).unwrap_or(text)
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

/// Whether part of the value may stay where it was when its names have moved on.
fn leaves_something(pat: &Pat) -> bool {
    match pat {
        Pat::Ident(pat) => pat.by_ref.is_some() || pat.subpat.is_some(),
        Pat::Paren(pat) => leaves_something(&pat.pat),
        Pat::Tuple(pat) => pat.elems.iter().any(leaves_something),
        Pat::TupleStruct(pat) => pat.elems.iter().any(leaves_something),
        Pat::Slice(pat) => pat.elems.iter().any(leaves_something),
        Pat::Struct(pat) => {
            pat.rest.is_some() || pat.fields.iter().any(|field| leaves_something(&field.pat))
        }
        // Behind a reference there is nothing that a drop could concern.
        Pat::Reference(_) => false,
        _ => true,
    }
}

/// Takes `mut` off the names in a parameter: it belongs to their `let` in the body.
struct WithoutMut;

impl VisitMut for WithoutMut {
    fn visit_pat_ident_mut(&mut self, pat: &mut PatIdent) {
        pat.mutability = None;
        visit_mut::visit_pat_ident_mut(self, pat);
    }
}

/// Makes of a pattern for a value one for a reference to it, which borrows all names.
struct Structure;

impl VisitMut for Structure {
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
