//! The attribute macro of `locks-core`.
