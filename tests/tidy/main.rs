//! The files of the workspace agree with each other.

mod documentation;
mod layers;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    sync::LazyLock,
};

use serde_json::Value;

/// The limit for files under `src/`.
const MOST_LINES: usize = 600;
/// Rust that tests read or compile themselves.
const CASES: [&str; 2] = ["tests/ui/", "locks-macros/golden/"];
/// What must not be committed. In halves, so that this file does not contain it.
const UNFINISHED: [&str; 4] = [
    concat!("#[", "ignore"),
    concat!("to", "do!"),
    concat!("unimple", "mented!"),
    concat!("db", "g!"),
];

/// The top level of the workspace.
static ROOT: LazyLock<PathBuf> = LazyLock::new(|| {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().expect("tests is a directory of it").into()
});

/// Cargo's metadata of the workspace's packages.
static PACKAGES: LazyLock<BTreeMap<String, Value>> = LazyLock::new(|| {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--offline", "--format-version=1"])
        .current_dir(&*ROOT)
        .output()
        .expect("cargo is there");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "cargo metadata: {errors}");
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    let named = |package: &Value| (text(&package["name"]).to_owned(), package.clone());
    packages.iter().map(named).collect()
});

fn text(value: &Value) -> &str {
    value.as_str().expect("text")
}

fn read(path: impl AsRef<Path>) -> String {
    let path = ROOT.join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The path as messages show it.
fn short(path: &Path) -> String {
    path.strip_prefix(&*ROOT)
        .unwrap_or(path)
        .display()
        .to_string()
}

#[track_caller]
fn assert_none(wrong: &[String], what: &str) {
    assert!(wrong.is_empty(), "{what}:\n  {}", wrong.join("\n  "));
}

/// The version of another package of the workspace that a package requires.
fn asked_for<'a>(package: &'a Value, dependency: &str) -> Option<&'a str> {
    let dependencies = package["dependencies"].as_array().expect("dependencies");
    let found = dependencies.iter().find(|d| d["name"] == dependency)?;
    Some(text(&found["req"]))
}

#[test]
fn versions_agree() {
    let core = text(&PACKAGES["locks-core"]["version"]);
    let macros = text(&PACKAGES["locks-macros"]["version"]);
    assert_eq!(core, macros, "locks-core and locks-macros have one version");
    let pin = asked_for(&PACKAGES["locks-core"], "locks-macros");
    let exactly = format!("={macros}");
    assert_eq!(pin, Some(&*exactly), "locks-core pins its macros with `=`");
    for (name, package) in &*PACKAGES {
        if let Some(req) = asked_for(package, "locks-core") {
            assert_eq!(req, format!("^{core}"), "{name} asks for this locks-core");
        }
    }
}

#[test]
fn the_changelog_has_an_entry_for_this_version() {
    let version = text(&PACKAGES["locks-core"]["version"]);
    let changelog = read("CHANGELOG.md");
    let heading = format!("## [{version}] - ");
    let mut lines = changelog.lines();
    let found = lines.find(|line| line.starts_with(&heading));
    let found = found.unwrap_or_else(|| panic!("CHANGELOG.md has no heading {heading:?}DATE"));
    let date = &found[heading.len()..];
    let is_date = date.len() == 10 && date.split('-').map(str::len).eq([4, 2, 2]);
    assert!(is_date, "{found:?} ends with a date, as 2001-12-31");
    let mut entry = lines.take_while(|line| !line.starts_with("## "));
    let item = entry.any(|line| line.starts_with("- "));
    assert!(item, "CHANGELOG.md says nothing below {found:?}");
}

#[test]
fn the_cargo_lines_of_the_readme_ask_for_this_version() {
    let version = text(&PACKAGES["locks-core"]["version"]);
    let readme = read("README.md");
    let wanted = readme
        .lines()
        .find_map(|line| line.strip_prefix("locks-core = "));
    let wanted = wanted.expect("README.md has Cargo lines").trim_matches('"');
    assert!(
        version.starts_with(&format!("{wanted}.")),
        "README.md asks for {wanted}, and this is {version}"
    );
}

/// The words of a command, without `--quiet`.
fn words(command: &str) -> Vec<&str> {
    let words = command.split_whitespace();
    words.filter(|word| *word != "--quiet").collect()
}

#[test]
fn the_commands_of_the_readme_are_run_by_ci() {
    let (readme, ci) = (read("README.md"), read(".ci/run"));
    let block = readme
        .split("```sh\n")
        .nth(1)
        .and_then(|rest| rest.split("```").next());
    let block = block.expect("README.md begins with a block of commands, marked sh");
    let commands: Vec<_> = block
        .lines()
        .map(|line| words(line.split('#').next().unwrap_or(line)))
        .filter(|command| !command.is_empty())
        .collect();
    let two = ["cargo run --example quickstart", "tests/run"].map(words);
    assert_eq!(commands, two, "the commands of README.md");

    // step "its name" the command
    let steps = ci.lines().filter(|line| line.starts_with("step \""));
    let steps: Vec<_> = steps
        .filter_map(|step| step.splitn(3, '"').nth(2))
        .map(words)
        .collect();
    for command in two {
        assert!(
            steps.contains(&command),
            "{command:?} is no step of .ci/run: {steps:#?}"
        );
    }
    for script in ["tests/run", ".ci/run"] {
        let mode = fs::metadata(ROOT.join(script))
            .expect(script)
            .permissions()
            .mode();
        assert_ne!(mode & 0o111, 0, "{script} can be executed");
    }
}

#[test]
fn top_level_has_the_expected_parts() {
    let packages = PACKAGES.values().map(|package| {
        let manifest = Path::new(text(&package["manifest_path"]));
        short(manifest.parent().expect("it lies in a directory"))
    });
    let wanted = [
        "examples",
        "locks-core",
        "locks-macros",
        "tests",
        "tests/metrics",
        "tests/ui",
    ];
    let packages: BTreeSet<_> = packages.collect();
    assert!(
        packages.iter().eq(wanted),
        "{packages:?} are not the packages {wanted:?}"
    );
    let missing = |paths: &[&str], is: fn(&Path) -> bool| -> Vec<String> {
        let missing = paths.iter().filter(|path| !is(&ROOT.join(path)));
        missing.map(ToString::to_string).collect()
    };
    let directories = [
        "migrations/sqlite",
        "migrations/mysql",
        "migrations/postgres",
        ".ci",
    ];
    assert_none(&missing(&directories, Path::is_dir), "missing directories");
    let papers = [
        "README.md",
        "ARCHITECTURE.md",
        "CHANGELOG.md",
        "LICENSE-MIT",
        "LICENSE-APACHE",
    ];
    assert_none(&missing(&papers, Path::is_file), "missing papers");
}

#[test]
fn published_packages_contain_their_licences() {
    for (name, package) in &*PACKAGES {
        if package["publish"].is_array() {
            continue;
        }
        assert_eq!(
            package["license"], "MIT OR Apache-2.0",
            "the licence of {name}"
        );
        for paper in ["LICENSE-MIT", "LICENSE-APACHE"] {
            let own = read(Path::new(name).join(paper));
            assert!(own == read(paper), "{name}/{paper} is another than {paper}");
        }
    }
    for package in ["locks-tests", "locks-examples", "locks-ui"] {
        let publish = &PACKAGES[package]["publish"];
        assert_eq!(
            publish,
            &Value::Array(Vec::new()),
            "{package} is not published"
        );
    }
    let inside = fs::canonicalize(ROOT.join("locks-core/migrations"));
    let outside = fs::canonicalize(ROOT.join("migrations"));
    let (inside, outside) = (
        inside.expect("what is embedded"),
        outside.expect("migrations"),
    );
    assert_eq!(inside, outside, "locks-core/migrations leads to migrations");
}

/// How a Rust file is compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// As part of what is published or run.
    Program,
    /// Below a `#[cfg(test)] mod`.
    Test,
}

/// Every file that belongs to a target of a package, or a problem with one.
fn files_of_targets() -> (BTreeMap<PathBuf, Part>, Vec<String>) {
    let (mut files, mut wrong) = (BTreeMap::new(), Vec::new());
    for (name, package) in &*PACKAGES {
        for target in package["targets"].as_array().expect("targets") {
            let root = PathBuf::from(text(&target["src_path"]));
            if root.is_file() {
                let beside = root.parent().expect("a file has a directory").to_owned();
                follow(root, &beside, Part::Program, &mut files, &mut wrong);
            } else {
                wrong.push(format!("{name} lists {}, which is not there", short(&root)));
            }
        }
    }
    (files, wrong)
}

/// Adds a file, and those of the modules that it declares, which lie in `beside`.
fn follow(
    file: PathBuf,
    beside: &Path,
    part: Part,
    files: &mut BTreeMap<PathBuf, Part>,
    wrong: &mut Vec<String>,
) {
    let source = read(&file);
    let mut before = "";
    for line in source.lines().map(str::trim) {
        let words: Vec<_> = line.trim_end_matches(';').split_whitespace().collect();
        if let [.., "mod", module] = words[..]
            && line.ends_with(';')
            && !line.starts_with("//")
        {
            let part = if before == "#[cfg(test)]" {
                Part::Test
            } else {
                part
            };
            let inside = beside.join(module);
            let places = [beside.join(format!("{module}.rs")), inside.join("mod.rs")];
            match places.into_iter().find(|place| place.is_file()) {
                Some(place) => follow(place, &inside, part, files, wrong),
                None => wrong.push(format!("{}: no file for mod {module}", short(&file))),
            }
        }
        before = line;
    }
    files.insert(file, part);
}

/// All Rust files of the workspace's packages.
fn files_on_disk() -> BTreeSet<PathBuf> {
    fn add(directory: &Path, files: &mut BTreeSet<PathBuf>) {
        for entry in fs::read_dir(directory).expect("it can be read") {
            let entry = entry.expect("it can be read");
            let (kind, path) = (entry.file_type().expect("a type"), entry.path());
            if kind.is_dir() && entry.file_name() != "target" {
                add(&path, files);
            } else if kind.is_file() && path.extension().is_some_and(|e| e == "rs") {
                files.insert(path);
            }
        }
    }
    let mut files = BTreeSet::new();
    for package in PACKAGES.values() {
        let manifest = Path::new(text(&package["manifest_path"]));
        add(manifest.parent().expect("a directory"), &mut files);
    }
    files.retain(|file| !CASES.iter().any(|cases| short(file).starts_with(cases)));
    files
}

#[test]
fn every_file_belongs_to_a_target_and_every_target_has_its_file() {
    let (known, mut wrong) = files_of_targets();
    for file in files_on_disk() {
        if !known.contains_key(&file) {
            let file = short(&file);
            wrong.push(format!(
                "{file}: neither listed in its Cargo.toml nor a module of another file"
            ));
        }
    }
    assert_none(&wrong, "files and targets");
    // Otherwise cargo would add what it finds, and the lists would be incomplete.
    for (directory, off) in [
        ("tests", "autotests"),
        ("tests/metrics", "autotests"),
        ("tests/ui", "autotests"),
        ("examples", "autoexamples"),
    ] {
        let manifest = read(Path::new(directory).join("Cargo.toml"));
        let off = format!("{off} = false");
        assert!(manifest.contains(&off), "{directory}/Cargo.toml says {off}");
    }
}

#[test]
fn every_test_binary_is_run() {
    let script = read("tests/run");
    let words: Vec<_> = script.split_whitespace().collect();
    let targets = PACKAGES.values().flat_map(|package| {
        let targets = package["targets"].as_array().expect("targets");
        targets.iter().filter(|target| target["kind"][0] == "test")
    });
    let names = targets.map(|target| text(&target["name"]));
    let missing = names.filter(|name| !words.windows(2).any(|pair| pair == ["--test", name]));
    let missing: Vec<_> = missing.map(str::to_owned).collect();
    assert_none(&missing, "not run by tests/run");
}

#[test]
fn files_under_src_are_short() {
    let mut wrong = Vec::new();
    for file in files_on_disk() {
        let (name, lines) = (short(&file), read(&file).lines().count());
        if name.split('/').nth(1) == Some("src") && lines > MOST_LINES {
            wrong.push(format!("{name}: {lines} lines"));
        }
    }
    assert_none(&wrong, &format!("more than {MOST_LINES} lines; split them"));
}

/// The numbered lines of code, without whole lines of comment.
fn code(source: &str) -> impl Iterator<Item = (usize, &str)> {
    let numbered = source
        .lines()
        .enumerate()
        .map(|(index, line)| (index + 1, line));
    numbered.filter(|(_, line)| !line.trim_start().starts_with("//"))
}

/// The code that is not below a `#[cfg(test)]`, in a file formatted by rustfmt.
fn code_without_tests(source: &str) -> Vec<(usize, &str)> {
    let mut kept = Vec::new();
    let mut lines = code(source);
    while let Some((number, line)) = lines.next() {
        let Some(indent) = line.strip_suffix("#[cfg(test)]") else {
            kept.push((number, line));
            continue;
        };
        let ends = [format!("{indent}}}"), format!("{indent}}};")];
        let mut item = lines.by_ref().map(|(_, line)| line);
        // An item of one line, or one that ends at its closing brace.
        let first = item.find(|line| !line.trim_start().starts_with("#["));
        if first.is_some_and(|first| !first.ends_with([';', '}'])) {
            item.find(|line| ends.iter().any(|end| line == end));
        }
    }
    kept
}

#[test]
fn nothing_unfinished_is_left() {
    let mut wrong = Vec::new();
    for file in files_on_disk() {
        let source = read(&file);
        for (number, line) in code(&source) {
            for unfinished in UNFINISHED.iter().filter(|text| line.contains(**text)) {
                wrong.push(format!("{}:{number}: {unfinished}", short(&file)));
            }
        }
    }
    assert_none(&wrong, "finish or remove these");
}

#[test]
fn nothing_unwraps_outside_tests() {
    let (files, _) = files_of_targets();
    let mut wrong = Vec::new();
    for (file, _) in files.iter().filter(|(_, part)| **part == Part::Program) {
        let name = short(file);
        if !name.starts_with("locks-core/src/") && !name.starts_with("locks-macros/src/") {
            continue;
        }
        for (number, line) in code_without_tests(&read(file)) {
            let blamed = line.contains(".expect(\"") && !line.contains(".expect(\"BUG: ");
            if blamed || line.contains(".unwrap()") {
                wrong.push(format!("{name}:{number}: {}", line.trim()));
            }
        }
    }
    assert_none(
        &wrong,
        "handle these, or `expect(\"BUG: …\")` for an invariant",
    );
}

#[test]
fn tests_inside_a_file_are_told_from_its_code() {
    let source = "\
use a;
#[cfg(test)]
use b;
fn c() {
    // d
    e();
    #[cfg(test)]
    if f() {
        g();
    }
}
#[cfg(test)]
#[derive(Debug)]
mod h {
    fn i() {}
}
fn j() {}";
    let kept: Vec<_> = code_without_tests(source)
        .into_iter()
        .map(|(n, _)| n)
        .collect();
    assert_eq!(kept, [1, 4, 6, 11, 17]);
}
