//! The command `locks`, as a program.

mod inspect;
mod migrate;
mod run;
mod support;
