//! What no single argument can tell: whether arguments and function fit together.

use proc_macro2::Span;
use syn::{Type, spanned::Spanned};

use crate::{
    args::{Args, OnLost, Patience},
    expand::MARKER,
    function::{Function, Shape, async_block, runs_unlocked},
    mistakes::Mistakes,
    params::Params,
};

/// Adds to `mistakes` what is wrong with the use as a whole.
pub(crate) fn validate(
    args: &Args,
    function: &Function,
    shape: &mut Shape,
    params: &Params,
    mistakes: &mut Mistakes,
) {
    templates(args, function, params, mistakes);
    options(args, shape, params, mistakes);
    head(function, mistakes);
    returned(function, shape, mistakes);
    if let Shape::Future(body) = shape {
        if async_block(&mut body.stmts).is_none() {
            let at = body
                .stmts
                .last()
                .map_or(function.sig.ident.span(), Spanned::span);
            mistakes.add(
                at,
                "what makes the future would run without the lock: \
                 let the body be `Box::pin(async move { … })` or `async move { … }`",
            );
        } else if let Some(stmt) = runs_unlocked(body) {
            mistakes.add(
                stmt.span(),
                "this would run without the lock, when the future is made: \
                 move it into the `async` block",
            );
        }
    }
}

fn templates(args: &Args, function: &Function, params: &Params, mistakes: &mut Mistakes) {
    if !args.names_a_lock {
        mistakes.add(
            Span::call_site(),
            "name the lock: `#[with_lock(\"app_task_<app_id>\")]`",
        );
    }
    for (index, template) in args.templates.iter().enumerate() {
        let text = template.literal.value();
        let is_same = |other: &crate::template::Template| other.pieces == template.pieces;
        if args.templates[..index].iter().any(is_same) {
            mistakes.add(
                template.literal.span(),
                format_args!("{text:?} is given twice: one lock is taken once"),
            );
            continue;
        }
        let unknown = template
            .placeholders()
            .filter(|placeholder| params.resolve(&placeholder.argument).is_none());
        for placeholder in unknown {
            mistakes.add(
                template.literal.span(),
                format_args!(
                    "`<{placeholder}>` in {text:?} names no argument: {}",
                    known(function, params)
                ),
            );
        }
    }
}

fn known(function: &Function, params: &Params) -> String {
    let name = &function.sig.ident;
    let names: Vec<_> = params
        .names()
        .iter()
        .map(|name| format!("`{name}`"))
        .collect();
    if names.is_empty() {
        format!("`{name}` takes none")
    } else {
        format!("those of `{name}` are {}", names.join(", "))
    }
}

fn options(args: &Args, shape: &Shape, params: &Params, mistakes: &mut Mistakes) {
    let waits_for_ever = match &args.patience {
        Some(patience) => patience.value == Patience::Forever,
        None => !args.tried("wait") && !args.tried("acquire"),
    };
    if let Some(busy) = &args.busy
        && waits_for_ever
    {
        mistakes.add(
            busy.at,
            "`busy` would never be used, because the call waits as long as it takes: \
             add `acquire` or `wait = \"30s\"`",
        );
    }
    if let Some(on_lost) = &args.on_lost
        && on_lost.value == OnLost::Cancel
        && matches!(shape, Shape::Sync)
    {
        mistakes.add(
            on_lost.at,
            "the body of a synchronous function cannot be cancelled: \
             leave `on_lost` out, or make the function `async`",
        );
    }
    if let Some(guard) = &args.guard
        && params.resolve(&guard.value.to_string()).is_some()
    {
        mistakes.add(
            guard.value.span(),
            format_args!(
                "`{}` is an argument already: choose another name for the guard",
                guard.value
            ),
        );
    }
    if let Some(matrix) = &args.matrix
        && let Some(first) = matrix.value.path.segments.first()
        && matrix.value.qself.is_none()
        && first.ident == "Self"
    {
        mistakes.add(
            first.ident.span(),
            "`Self` cannot be used here: write the type's name",
        );
    }
}

fn head(function: &Function, mistakes: &mut Mistakes) {
    let sig = &function.sig;
    if let Some(constness) = &sig.constness {
        mistakes.add(
            constness.span,
            "a `const fn` cannot wait for a lock: remove `const`",
        );
    }
    if function.is_expanded(MARKER) {
        mistakes.add(
            Span::call_site(),
            "two `#[with_lock]` on one function would not be granted together: \
             give all templates to one",
        );
    }
    if function.body.is_none() {
        mistakes.add(
            sig.ident.span(),
            format_args!(
                "`{}` has no body to hold a lock around: annotate its implementations",
                sig.ident
            ),
        );
    }
}

/// Says it only where the type can be no alias of a `Result`; else the compiler does.
fn returned(function: &Function, shape: &Shape, mistakes: &mut Mistakes) {
    let returned = match shape {
        Shape::Future(body) => Some(&body.output),
        Shape::Async | Shape::Sync => function.returned(),
    };
    let name = &function.sig.ident;
    let Some(returned) = returned else {
        mistakes.add(
            name.span(),
            format_args!(
                "`{name}` must return a `Result`, to tell when it did not get the lock: \
                 write `-> Result<(), E>`, where `E: From<LockError>`"
            ),
        );
        return;
    };
    let is_no_result = matches!(
        returned,
        Type::Array(_)
            | Type::FnPtr(_)
            | Type::ImplTrait(_)
            | Type::Never(_)
            | Type::Ptr(_)
            | Type::Reference(_)
            | Type::Slice(_)
            | Type::TraitObject(_)
            | Type::Tuple(_)
    );
    if is_no_result {
        mistakes.add(
            returned.span(),
            format_args!(
                "`{name}` must return a `Result`, to tell when it did not get the lock: \
                 write `Result<_, E>`, where `E: From<LockError>`"
            ),
        );
    }
}
