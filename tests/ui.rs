//! What `#[with_lock]` compiles, and what it says where it does not.
//!
//! What the compiler says changes from version to version, so the messages are compared
//! on one of them.

use std::process::Command;

const MESSAGES_OF: &str = "rustc 1.95.";

#[test]
fn ui() {
    let cases = trybuild::TestCases::new();
    cases.pass("ui/pass/*.rs");
    if compiler().starts_with(MESSAGES_OF) {
        cases.compile_fail("ui/fail/*.rs");
    } else {
        println!("skipped: the messages of mistakes, which need {MESSAGES_OF}x");
    }
}

fn compiler() -> String {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc).arg("--version").output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}
