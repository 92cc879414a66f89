//! Functions with `#[with_lock]` under real locks.

mod with_lock;
mod with_lock_ends;
