//! Modules of `locks-core` depend one way.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use super::{assert_none, files_on_disk, read, short};

/// The modules of `locks-core`, from the top down. A module uses only modules of its own
/// layer and of layers below.
const LAYERS: [&[&str]; 9] = [
    &["bin"],
    &["lib", "_documentation"],
    &["with_lock"],
    &["manager"],
    &["builder", "guard", "wait"],
    &["driver"],
    &["protocol"],
    &["store"],
    &["table"],
];
/// The modules below all layers.
const LEAVES: [&str; 8] = [
    "error", "matrix", "name", "options", "process", "random", "report", "scope",
];

fn rust_files_below(directory: &str) -> Vec<PathBuf> {
    let files = files_on_disk().into_iter();
    files
        .filter(|file| short(file).starts_with(directory))
        .collect()
}

/// The layer of a module: the larger, the lower.
fn layer(module: &str) -> Option<usize> {
    let found = LAYERS.iter().position(|layer| layer.contains(&module));
    found.or_else(|| LEAVES.contains(&module).then_some(LAYERS.len()))
}

/// The code of a file without its comments and its unit tests.
fn code(text: &str) -> String {
    let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or(text);
    let lines = code
        .lines()
        .map(|line| line.split("//").next().unwrap_or(line));
    lines.collect::<Vec<_>>().join("\n")
}

/// The first names of all paths that begin with `root`, which ends with `::`.
fn used(code: &str, root: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (at, _) in code.match_indices(root) {
        let before = code[..at].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':' || c == '$') {
            continue;
        }
        let rest = &code[at + root.len()..];
        if let Some(list) = rest.strip_prefix('{') {
            names.extend(first_names(list));
        } else {
            names.extend(first_name(rest));
        }
    }
    names
}

fn first_name(path: &str) -> Option<String> {
    let name: String = path
        .chars()
        .take_while(|c| c.is_alphanumeric() || *c == '_')
        .collect();
    (!name.is_empty()).then_some(name)
}

/// The first name of each path in a list that ends with `}`.
fn first_names(list: &str) -> Vec<String> {
    let (mut depth, mut start, mut names) = (0, 0, Vec::new());
    for (at, c) in list.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => {
                names.extend(first_name(list[start..at].trim()));
                break;
            }
            '}' => depth -= 1,
            ',' if depth == 0 => {
                names.extend(first_name(list[start..at].trim()));
                start = at + 1;
            }
            _ => {}
        }
    }
    names
}

#[test]
fn no_import_runs_up_the_list_of_layers() {
    let src = Path::new("locks-core/src");
    let mut wrong = Vec::new();
    for path in rust_files_below("locks-core/src") {
        let name = short(&path);
        let inner = Path::new(&name).strip_prefix(src).expect("below src");
        let first = inner.components().next().expect("a file").as_os_str();
        let module = first.to_str().expect("UTF-8").trim_end_matches(".rs");
        let Some(own) = layer(module) else {
            wrong.push(format!("{name}: the module {module} is in no layer"));
            continue;
        };
        for other in used(&code(&read(&path)), "crate::") {
            if let Some(below) = layer(&other)
                && below < own
            {
                wrong.push(format!("{name} uses {other}, which is above {module}"));
            }
        }
    }
    assert_none(&wrong, "imports that run up");
}

#[test]
fn modules_of_the_protocol_use_only_modules_above_them_in_its_list() {
    let root = read("locks-core/src/protocol/mod.rs");
    let modules = root.lines().filter_map(|line| line.strip_prefix("mod "));
    let order: Vec<_> = modules.map(|line| line.trim_end_matches(';')).collect();
    assert!(order.len() > 20, "{order:?}");
    let place = |module: &str| order.iter().position(|other| *other == module);
    let mut wrong = Vec::new();
    for path in rust_files_below("locks-core/src/protocol") {
        let name = short(&path);
        let inner = name.trim_start_matches("locks-core/src/protocol/");
        let (module, root) = match inner.split_once('/') {
            Some((module, _)) => (module, "crate::protocol::"),
            None => (inner.trim_end_matches(".rs"), "super::"),
        };
        let Some(own) = place(module) else {
            // The root itself, and the simulator.
            continue;
        };
        for other in used(&code(&read(&path)), root) {
            if place(&other).is_some_and(|other| other >= own) && other != module {
                wrong.push(format!("{name} uses {other}, which is not above it"));
            }
        }
    }
    assert_none(&wrong, "imports that run down the list");
}

#[test]
fn no_field_of_the_protocol_is_visible_outside_its_file() {
    // The structs that have state. Other structs of the protocol are values.
    const MACHINES: [&str; 14] = [
        "Admin",
        "Agenda",
        "FailureDetector",
        "Grants",
        "GroupCommit",
        "Namespace",
        "Namespaces",
        "OwnSessions",
        "PollSchedule",
        "Renewals",
        "Requests",
        "RowCache",
        "Shutdown",
        "WriteSchedule",
    ];
    let (mut wrong, mut found) = (Vec::new(), BTreeSet::new());
    for path in rust_files_below("locks-core/src/protocol") {
        let text = read(&path);
        for machine in MACHINES {
            let Some((_, body)) = text.split_once(&format!("struct {machine} {{\n")) else {
                if text.contains(&format!("struct {machine}(BTreeMap")) {
                    found.insert(machine);
                }
                continue;
            };
            found.insert(machine);
            let body = body.split("\n}").next().unwrap_or(body);
            let public = body
                .lines()
                .filter(|line| line.trim_start().starts_with("pub"));
            wrong.extend(public.map(|line| format!("{}: {}", short(&path), line.trim())));
        }
    }
    assert_eq!(found.len(), MACHINES.len(), "{found:?}");
    assert_none(&wrong, "visible fields");
}
