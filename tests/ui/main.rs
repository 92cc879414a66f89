//! What `#[with_lock]` compiles, and its messages where it does not.
//!
//! What must compile is compiled with this test. The compiler's messages change from version to
//! version, so they are compared for one version.

mod features;
mod pass;

use std::process::Command;

const MESSAGES_OF: &str = "rustc 1.95.";

#[test]
fn mistakes_are_explained() {
    if compiler().starts_with(MESSAGES_OF) {
        trybuild::TestCases::new().compile_fail("fail/*.rs");
    } else {
        println!("skipped: the messages of mistakes, which need {MESSAGES_OF}x");
    }
}

fn compiler() -> String {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc).arg("--version").output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}
