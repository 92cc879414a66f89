//! Functions with `#[with_lock]` under real locks.

mod calls;
mod endings;
mod synchronous;
