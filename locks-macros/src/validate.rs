//! The rules that concern the arguments and the function together.

use proc_macro2::Span;
use syn::{Type, spanned::Spanned};

use crate::{
    args::{Args, OnLost, WaitPolicy},
    expand::MARKER,
    function::{Function, Shape, async_block, runs_unlocked},
    mistakes::Mistakes,
    params::Params,
    template::Template,
};

/// Adds every broken rule to `mistakes`.
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
    return_type(function, shape, mistakes);
    if let Shape::Future(body) = shape {
        if async_block(&mut body.stmts).is_none() {
            let at = body
                .stmts
                .last()
                .map_or(function.sig.ident.span(), Spanned::span);
            mistakes.add(
                at,
                "this expression would run without the lock: \
                 the body must be `Box::pin(async move { … })` or `async move { … }`",
            );
        } else if let Some(stmt) = runs_unlocked(body) {
            mistakes.add(
                stmt.span(),
                "this statement would run without the lock, before the future is polled: \
                 move it into the `async` block",
            );
        }
    }
}

fn templates(args: &Args, function: &Function, params: &Params, mistakes: &mut Mistakes) {
    if !args.names_a_lock {
        mistakes.add(
            Span::call_site(),
            "a lock name is missing: write `#[with_lock(\"app_task_<app_id>\")]`",
        );
    }
    for (index, template) in args.templates.iter().enumerate() {
        let text = template.literal.value();
        let is_equal = |other: &Template| other.parts == template.parts;
        if args.templates[..index].iter().any(is_equal) {
            mistakes.add(
                template.literal.span(),
                format_args!("{text:?} is given twice: remove one of them"),
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
                    "`<{placeholder}>` in {text:?} is not an argument: {}",
                    available(function, params)
                ),
            );
        }
    }
}

fn available(function: &Function, params: &Params) -> String {
    let name = &function.sig.ident;
    let names: Vec<_> = params
        .names()
        .iter()
        .map(|name| format!("`{name}`"))
        .collect();
    if names.is_empty() {
        format!("`{name}` has no arguments")
    } else {
        format!("the arguments of `{name}` are {}", names.join(", "))
    }
}

fn options(args: &Args, shape: &Shape, params: &Params, mistakes: &mut Mistakes) {
    let waits_without_end = match &args.wait_policy {
        Some(policy) => policy.value == WaitPolicy::Wait { timeout: None },
        None => !args.has_seen("wait") && !args.has_seen("acquire"),
    };
    if let Some(busy) = &args.busy
        && waits_without_end
    {
        mistakes.add(
            busy.at,
            "`busy` would never be used, because the call waits without end: \
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
             remove `on_lost`, or make the function `async`",
        );
    }
    if let Some(guard) = &args.guard
        && params.resolve(&guard.value.to_string()).is_some()
    {
        mistakes.add(
            guard.value.span(),
            format_args!(
                "`{}` is the name of an argument: choose another name for the guard",
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
            "`Self` is not available here: write the name of the type",
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
            "two `#[with_lock]` attributes would not acquire their locks together: \
             give all templates to one attribute",
        );
    }
    if function.body.is_none() {
        mistakes.add(
            sig.ident.span(),
            format_args!("`{}` has no body: annotate its implementations", sig.ident),
        );
    }
}

/// Checks the return type. A type that may be an alias of `Result` is left to the compiler.
fn return_type(function: &Function, shape: &Shape, mistakes: &mut Mistakes) {
    let return_type = match shape {
        Shape::Future(body) => Some(&body.output),
        Shape::Async | Shape::Sync => function.return_type(),
    };
    let name = &function.sig.ident;
    let Some(return_type) = return_type else {
        mistakes.add(
            name.span(),
            format_args!(
                "`{name}` must return a `Result`, to report that the lock was refused: \
                 write `-> Result<(), E>`, where `E: From<LockError>`"
            ),
        );
        return;
    };
    let is_no_result = matches!(
        return_type,
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
            return_type.span(),
            format_args!(
                "`{name}` must return a `Result`, to report that the lock was refused: \
                 write `Result<_, E>`, where `E: From<LockError>`"
            ),
        );
    }
}
