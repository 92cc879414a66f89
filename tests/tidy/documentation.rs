//! The pages of the documentation name what exists.

use std::{collections::BTreeSet, path::Path};

use super::{ROOT, assert_none, files_on_disk, read, short};

const PAGES: &str = "locks-core/src/_documentation";

/// The text of each page, by its name.
fn pages() -> Vec<(String, String)> {
    let files = std::fs::read_dir(ROOT.join(PAGES)).expect("the pages");
    let paths = files.map(|file| file.expect("a page").path());
    let pages = paths.filter(|path| path.extension().is_some_and(|end| end == "md"));
    let pages: Vec<_> = pages.map(|path| (short(&path), read(&path))).collect();
    assert_eq!(pages.len(), 5);
    pages
}

/// What a text has between single back quotes.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.lines()
        .flat_map(|line| line.split('`').skip(1).step_by(2))
}

/// Whether a word is named as a test or a trace: words of the library have fewer parts.
fn is_test(word: &str) -> bool {
    let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    word.chars().all(is_name) && word.matches('_').count() >= 3 && !word.starts_with("locks_")
}

/// Settings of databases that look like tests.
const SETTINGS: [&str; 1] = ["innodb_flush_log_at_trx_commit"];

#[test]
fn the_tests_that_the_documentation_names_exist() {
    let mut functions = BTreeSet::new();
    for file in files_on_disk() {
        for line in read(&file).lines() {
            let Some((_, rest)) = line.split_once("fn ") else {
                continue;
            };
            let name = rest.split(['(', '<']).next().unwrap_or(rest);
            functions.insert(name.to_owned());
        }
    }
    let (mut wrong, mut found) = (Vec::new(), 0);
    for (page, text) in pages() {
        for word in quoted(&text).filter(|word| is_test(word) && !SETTINGS.contains(word)) {
            found += 1;
            if !functions.contains(word) {
                wrong.push(format!("{page}: {word}"));
            }
        }
    }
    assert_none(&wrong, "tests that do not exist");
    assert!(found > 60, "{found}");
}

#[test]
fn the_properties_that_the_documentation_names_are_checked_by_the_simulator() {
    let simulator = files_on_disk()
        .into_iter()
        .filter(|file| Path::new(&short(file)).starts_with("locks-core/src/protocol/sim"));
    let simulator: String = simulator.map(read).collect();
    let (mut wrong, mut found) = (Vec::new(), 0);
    for (page, text) in pages() {
        let names = |line: &&str| line.contains("propert");
        for line in text.lines().filter(names) {
            let is_property = |word: &&str| {
                word.contains('-') && word.chars().all(|c| c.is_ascii_lowercase() || c == '-')
            };
            for property in quoted(line).filter(is_property) {
                found += 1;
                if !simulator.contains(&format!("\"{property}\"")) {
                    wrong.push(format!("{page}: {property}"));
                }
            }
        }
    }
    assert_none(&wrong, "properties that are not checked");
    assert!(found > 5, "{found}");
}

#[test]
fn links_between_the_papers_lead_to_files() {
    let (mut wrong, mut found) = (Vec::new(), 0);
    let papers = [
        "README.md",
        "ARCHITECTURE.md",
        "CHANGELOG.md",
        "locks-core/BENCHMARKS.md",
    ];
    for paper in papers {
        let text = read(paper);
        let beside = Path::new(paper).parent().expect("a directory");
        for link in text.split("](").skip(1) {
            let link = link.split(')').next().expect("its end");
            let file = link.split('#').next().expect("a path");
            if file.is_empty() || file.contains("://") {
                continue;
            }
            found += 1;
            if !ROOT.join(beside).join(file).exists() {
                wrong.push(format!("{paper}: {link}"));
            }
        }
    }
    assert_none(&wrong, "links that lead nowhere");
    assert!(found > 15, "{found}");
}

/// The messages of events at INFO and above in the code of the library.
fn messages() -> BTreeSet<String> {
    let mut messages = BTreeSet::new();
    for file in files_on_disk() {
        let name = short(&file);
        if !name.starts_with("locks-core/src/") || name.contains("/sim/") {
            continue;
        }
        let source = read(&file);
        for level in ["info!(", "warn!(", "error!("] {
            for (at, _) in source.match_indices(level) {
                let before = source[..at].chars().next_back();
                if before.is_some_and(|c| c.is_alphanumeric() || c == '_') {
                    continue;
                }
                let event = source[at..].split(");").next().expect("its end");
                // The message is the last text of an event.
                let text = event.rsplit('"').nth(1).expect("a message");
                if !text.contains('{') && !text.contains('\\') {
                    messages.insert(text.to_owned());
                }
            }
        }
    }
    messages
}

#[test]
fn the_documentation_explains_every_log_line_of_a_change() {
    let page = read(Path::new(PAGES).join("operations.md"));
    let messages = messages();
    assert!(messages.len() > 12, "{messages:#?}");
    let missing = messages
        .iter()
        .filter(|text| !page.contains(&format!("| {text} |")));
    let missing: Vec<_> = missing.cloned().collect();
    assert_none(&missing, "log lines that operations.md does not explain");
    let explained = page.lines().filter(|line| {
        ["| INFO | ", "| WARN | ", "| ERROR | "]
            .iter()
            .any(|level| line.starts_with(level))
    });
    let unknown = explained.filter_map(|line| line.split(" | ").nth(1));
    let unknown: Vec<_> = unknown
        .filter(|text| !messages.contains(*text))
        .map(str::to_owned)
        .collect();
    assert_none(&unknown, "log lines that are never logged");
}

#[test]
fn lines_of_the_documentation_are_short() {
    let mut wrong = Vec::new();
    for (page, text) in pages() {
        for (number, line) in text.lines().enumerate() {
            if line.chars().count() > 100 && !line.starts_with('|') {
                wrong.push(format!("{page}:{}", number + 1));
            }
        }
    }
    assert_none(&wrong, "lines that are too long");
}
