//! The command `locks`.
