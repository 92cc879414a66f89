//! Engines that are not compiled in: the error names the feature to enable.

use std::{
    path::Path,
    process::{Command, Output},
};

/// A program that uses the library with one engine, and prints the result of connecting to each URL
/// of its arguments.
const PROGRAM: &str = r#"
fn main() {
    for url in std::env::args().skip(1) {
        match locks_core::LockManager::connect(&url).blocking() {
            Ok(_) => println!("connected"),
            Err(error @ locks_core::LockError::InvalidConfig { .. }) => println!("{error}"),
            Err(error) => panic!("{url}: {error:?}"),
        }
    }
}
"#;

/// Builds the program with this feature of the library, and runs it with these URLs.
fn run(feature: &str, urls: &[&str]) -> Output {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .expect("the workspace");
    // The build directory is kept between runs, so that dependencies are built once.
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("left-out");
    let package = tempfile::tempdir().expect("a directory");
    let manifest = format!(
        "[package]\nname = \"left-out\"\nedition = \"2024\"\n[workspace]\n\
         [profile.dev]\ndebug = false\n[dependencies]\n\
         locks-core = {{ path = '{}', default-features = false, features = [{feature:?}] }}\n",
        root.join("locks-core").display(),
    );
    std::fs::write(package.path().join("Cargo.toml"), manifest).unwrap();
    std::fs::create_dir(package.path().join("src")).unwrap();
    std::fs::write(package.path().join("src/main.rs"), PROGRAM).unwrap();
    // The versions of the workspace's lock file, which are already on this machine.
    std::fs::copy(root.join("Cargo.lock"), package.path().join("Cargo.lock")).unwrap();
    Command::new(std::env::var_os("CARGO").unwrap_or("cargo".into()))
        .args(["run", "--quiet", "--offline", "--target-dir"])
        .arg(target)
        .arg("--")
        .args(urls)
        .current_dir(package.path())
        .output()
        .expect("cargo runs")
}

// One engine is built, the fastest. All engines report the error by one function.
#[test]
fn error_names_the_feature_of_the_url() {
    let expected = [
        ("sqlite://locks.db", "`sqlite`"),
        ("sqlite::memory:", "`sqlite`"),
        ("mysql://u:hunter2@127.0.0.1/d", "`mysql`"),
        ("mariadb://u:hunter2@127.0.0.1/d", "`mysql`"),
    ];
    let output = run("postgres", &expected.map(|(url, _)| url));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let said = String::from_utf8(output.stdout).expect("text");
    let lines: Vec<_> = said.lines().collect();
    assert_eq!(lines.len(), expected.len(), "{said}");
    for (line, (_, feature)) in lines.iter().zip(expected) {
        assert!(line.contains("feature") && line.contains(feature), "{line}");
    }
    assert!(!said.contains("hunter2"), "{said}");
}
