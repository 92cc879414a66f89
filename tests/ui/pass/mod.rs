//! Functions that `#[with_lock]` compiles. Each file denies all warnings of the compiler.

// The functions have the shapes that are tested, not those that lints prefer.
#![allow(
    clippy::all,
    clippy::pedantic,
    missing_docs,
    missing_debug_implementations,
    unreachable_pub
)]

mod async_functions;
mod async_trait;
mod attributes_kept;
mod boxed_futures;
mod endings;
mod instrument;
mod methods;
mod options;
mod qualifiers;
mod send;
mod sync_functions;
mod tokio;
mod traits;
