//! The statements that the documentation shows.

use std::{fs, path::Path};

use locks_core::LockManager;
use locks_tests::{engine::Database, on_every_engine};

on_every_engine!(async the_statements_of_the_documentation_find_a_held_lock);

async fn the_statements_of_the_documentation_find_a_held_lock(db: Database) {
    let pages = Path::new(env!("CARGO_MANIFEST_DIR")).join("../locks-core/src/_documentation");
    let builder = LockManager::builder().task_id("the-task");
    let locks = builder.connect(db.url()).await.unwrap();
    let _guard = locks.acquire("the-lock").await.unwrap();
    let mut connection = db.connect().await;
    let mut answers = Vec::new();
    for page in fs::read_dir(pages).expect("the pages") {
        let text = fs::read_to_string(page.expect("a page").path()).expect("text");
        for block in text.split("```sql\n").skip(1) {
            let block = block.split("```").next().expect("its end");
            for statement in block.split(';').map(str::trim) {
                if !statement.is_empty() {
                    let rows = connection.rows(statement).await.expect(statement);
                    answers.push(format!("{rows:?}"));
                }
            }
        }
    }
    assert_eq!(answers.len(), 2, "{answers:#?}");
    assert!(answers[0].contains("the-lock"), "{answers:#?}");
    assert!(answers[0].contains("the-task"), "{answers:#?}");
    assert!(answers[1].contains("the-task"), "{answers:#?}");
    locks.close().await.unwrap();
}
