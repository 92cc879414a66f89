//! `--matrix`.

use std::fs;

use locks_core::{ConflictMatrix, LockManager};
use locks_tests::{engine::Database, on_every_engine};

use crate::support::{errors, locks, output};

/// The chapter that describes the file.
const CHAPTER: &str = include_str!("../../locks-core/src/_documentation/operations.md");
/// The matrix of its example.
const MATRIX: ConflictMatrix = ConflictMatrix::new(&[
    ("box_update", &["app_task_*", "app_backup_*"]),
    ("mail_restart", &[]),
])
.symmetric()
.limits(&[("app_backup_*", 3)]);

on_every_engine!(
    async matrix_of_a_file_is_that_of_a_program,
    async file_without_a_matrix_is_refused,
);

async fn matrix_of_a_file_is_that_of_a_program(db: Database) {
    let (_, example) = CHAPTER.split_once("```json\n").expect("an example");
    let (example, _) = example.split_once("```").expect("its end");
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("matrix.json");
    fs::write(&file, example).expect("it writes");
    let file = file.to_str().expect("UTF-8");
    let program = LockManager::builder().task_id("program").matrix(MATRIX);
    let program = program.connect(db.url()).await.expect("it connects");
    let names = ["app_backup_1", "app_backup_2", "app_backup_3", "y"];
    let _guard = program.acquire(names).await.expect("they are free");
    let run = |matrix, name| {
        let output = output(
            &db,
            &["run", "--try", "--matrix", matrix, name, "--", "true"],
        );
        (output.status.code(), errors(&output))
    };
    assert_eq!(run(file, "x"), (Some(0), String::new()));
    let (code, text) = run(file, "box_update");
    assert_eq!(code, Some(75), "{text}");
    assert!(
        text.contains("app_backup_1 is held by task program"),
        "{text}"
    );
    let (code, text) = run(file, "app_backup_4");
    assert_eq!(code, Some(75), "{text}");
    assert!(text.contains("limit app_backup_* (3)"), "{text}");
    let (code, text) = run("exclusive", "x");
    assert_eq!(code, Some(75), "another matrix: {text}");
    assert!(text.contains("--matrix or LOCKS_MATRIX"), "{text}");
    let mut command = locks(&db, ["run", "--try", "x", "--", "true"]);
    let status = command
        .env("LOCKS_MATRIX", file)
        .status()
        .expect("it starts");
    assert_eq!(status.code(), Some(0));
}

async fn file_without_a_matrix_is_refused(db: Database) {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("matrix.json");
    for (text, part) in [
        ("{", "EOF while parsing"),
        ("{}", "missing field `rules`"),
        (r#"{"rules": [], "limit": []}"#, "unknown field `limit`"),
        (r#"{"rules": [["a", ["b*c"]]]}"#, "invalid pattern \"b*c\""),
        (r#"{"rules": [["", []]]}"#, "invalid pattern \"\""),
        (
            r#"{"rules": [], "limits": [["a", 0]]}"#,
            "the limit of \"a\" is 0",
        ),
    ] {
        fs::write(&file, text).expect("it writes");
        let file = file.to_str().expect("UTF-8");
        let output = output(&db, &["run", "--matrix", file, "x", "--", "true"]);
        assert_eq!(output.status.code(), Some(125));
        assert!(errors(&output).contains(part), "{}", errors(&output));
    }
    let output = output(&db, &["list", "--matrix", "platfrom"]);
    assert_eq!(output.status.code(), Some(125));
    let text = errors(&output);
    assert!(
        text.contains("neither `platform` nor `exclusive`, nor a file"),
        "{text}"
    );
}
