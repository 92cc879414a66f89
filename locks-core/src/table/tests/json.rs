//! The texts of the row's two columns.

use proptest::prelude::*;

use super::{request, table};
use crate::{
    matrix::ConflictMatrix,
    table::{LockTable, Order},
};

fn reparsed(table: &LockTable) -> LockTable {
    let (data, meta) = columns(table);
    LockTable::parse(Some(&data), Some(&meta)).expect("a text that was written here")
}

fn columns(table: &LockTable) -> (String, String) {
    let columns = table.clone().columns();
    (columns.data_json, columns.meta_json)
}

fn data_json(table: &LockTable) -> String {
    columns(table).0
}

fn meta_json(table: &LockTable) -> String {
    columns(table).1
}

#[test]
fn parsed_columns_are_the_table_again() {
    let table = table(&[
        "a holds app_task_1 app_backup_1",
        "a:18446744073709551615.7 holds other",
        "original holds mail_restart",
        "e! holds constructor",
        "b waits box_update",
        "a:5 waits app_task_2 app_task_1",
        "only_waits:9.8.7 waits quoted\" \\ \u{1F512}",
    ]);
    assert_eq!(reparsed(&table), table);
    assert_eq!(reparsed(&LockTable::default()), LockTable::default());
}

#[test]
fn data_json_maps_each_held_name_to_its_task() {
    let table = table(&[
        "b holds y",
        "a holds x",
        "original holds __proto__",
        "w waits x",
    ]);
    assert_eq!(
        data_json(&table),
        r#"{"__proto__":"original","x":"a","y":"b"}"#
    );
    let foreign = LockTable::parse(Some(&data_json(&table)), None).expect("readable");
    assert_eq!(foreign.queue().len(), 0);
    let holders = foreign.holders();
    assert!(
        holders.iter().all(|holder| holder.token.is_none()),
        "{holders:?}"
    );
}

#[test]
fn grant_is_stolen_when_data_json_has_another_task() {
    let table = table(&["a holds x y", "b holds z"]);
    let meta = meta_json(&table);
    // The original released x and granted y to another task.
    let data = r#"{"y":"original","z":"b"}"#;
    let mut changed = LockTable::parse(Some(data), Some(&meta)).expect("readable");
    assert_eq!(data_json(&changed), data);
    assert!(changed.entry("x").is_none());
    assert!(changed.entry("y").unwrap().grant.is_none());
    assert!(changed.entry("z").unwrap().grant.is_some());
    // The stolen locks are kept, in later writes as well, until their session is dead.
    assert_eq!(reparsed(&changed), changed);
    let victim = |table: &LockTable| table.stolen().map(|id| id.0.to_string()).next();
    assert_eq!(victim(&changed).as_deref(), Some("ns/a"));
    changed.forget_stolen(|session| &*session.0 == "ns/b");
    assert!(victim(&changed).is_some());
    changed.forget_stolen(|session| &*session.0 == "ns/a");
    assert_eq!(victim(&changed), None);
}

#[test]
fn release_does_not_remove_a_foreign_lock() {
    let request = request("a asks x");
    let mut table = table(&[]);
    table.grant(&request, 5);
    let taken = LockTable::parse(Some(r#"{"x":"b"}"#), Some(&meta_json(&table)));
    let mut taken = taken.expect("readable");
    assert!(!taken.release(&(request.session.clone(), request.nonce), &request.names));
    assert_eq!(
        taken.granted(&(request.session, request.nonce), &request.names),
        None
    );
    assert_eq!(data_json(&taken), r#"{"x":"b"}"#);
}

#[test]
fn unreadable_column_is_an_error_that_names_it() {
    let matrix = ConflictMatrix::platform().fingerprint().0;
    let unlisted = r#"{"sessions":[],"held":{"x":[0,1,2,3]},"queue":[]}"#;
    let waiter =
        format!(r#"{{"sessions":[["t","t",{matrix}]],"held":{{}},"queue":[[1,1,2,3,["x"]]]}}"#);
    let cases: &[(Option<&str>, Option<&str>, &str)] = &[
        (None, None, "dataJson"),
        (Some(""), None, "dataJson"),
        (Some("{"), None, "dataJson"),
        (Some("null"), None, "dataJson"),
        (Some("[]"), None, "dataJson"),
        (Some(r#"{"x":1}"#), None, "dataJson"),
        (Some(r#"{"x":"a"} {}"#), None, "dataJson"),
        // Truncated, as a server that is not strict does.
        (Some(r#"{"x":"a","y":"#), None, "dataJson"),
        (Some("{}"), Some(""), "metaJson"),
        (Some("{}"), Some("7"), "metaJson"),
        (Some("{}"), Some(r#"{"held":{"x":[0,1]}}"#), "metaJson"),
        (
            Some("{}"),
            Some(r#"{"queue":[[0,-1,2,3,["x"]]]}"#),
            "metaJson",
        ),
        (Some("{}"), Some(unlisted), "metaJson"),
        (Some("{}"), Some(&waiter), "metaJson"),
    ];
    for (data, meta, column) in cases {
        let error = LockTable::parse(*data, *meta)
            .expect_err("unreadable")
            .to_string();
        assert!(error.starts_with(column), "{data:?} {meta:?}: {error}");
        assert!(error.contains("left as it is"), "{error}");
    }
}

#[test]
fn columns_of_a_new_row_are_an_empty_table() {
    let table = LockTable::parse(Some("{}"), Some("{}")).expect("as it is created");
    assert_eq!(table, LockTable::default());
    assert!(table.is_free(&request("a asks x"), Order::Behind(0)));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn parsed_columns_are_any_table_again(
        held in prop::collection::btree_map("\\PC{1,9}", (0..4u8, 0..3u64), 0..12),
        queue in prop::collection::vec((0..4u8, prop::collection::vec("[a-e]", 1..4)), 0..8),
        stolen in prop::collection::btree_map("\\PC{1,9}", "[p-s]", 0..3),
    ) {
        let mut table = LockTable::default();
        for (name, (task, depth)) in &held {
            let scope = if *depth == 0 { String::new() } else { format!(":{depth}") };
            let mut request = request(&format!("{task}{scope} asks x"));
            request.names = super::names(&[name]);
            table.grant(&request, 1);
        }
        for (task, names) in &queue {
            let request = request(&format!("{task} asks {}", names.join(" ")));
            table.enqueue(&request, &request.session, 2);
        }
        prop_assert_eq!(&reparsed(&table), &table);
        // The original writes dataJson alone: the table that remains is consistent.
        let mut tasks: std::collections::BTreeMap<String, String> =
            serde_json::from_str(&data_json(&table)).unwrap();
        tasks.extend(stolen);
        let data = serde_json::to_string(&tasks).unwrap();
        let changed = LockTable::parse(Some(&data), Some(&meta_json(&table))).unwrap();
        prop_assert_eq!(data_json(&changed), data);
        prop_assert_eq!(&reparsed(&changed), &changed);
    }

    /// The cache of texts must not change what is written.
    #[test]
    fn cached_texts_are_equal_to_new_ones(
        writes in prop::collection::vec(
            prop::collection::vec((0..300_u32, prop::option::weighted(0.7, 0..4_u8)), 0..100),
            1..6,
        ),
    ) {
        let mut table = LockTable::default();
        let mut token = 1_700_000_000_000_000;
        for changes in writes {
            token += 1;
            for (name, task) in changes {
                let mut request = request(&format!("{} asks x", task.unwrap_or(0)));
                request.names = super::names(&[&format!("n{name}")]);
                request.since = token / 2 - i64::from(name);
                match task {
                    Some(_) => table.grant(&request, token),
                    None => drop(table.remove(&request.names[0], |_| true)),
                }
            }
            let written = table.columns();
            let read = LockTable::parse(Some(&written.data_json), Some(&written.meta_json));
            let mut read = read.unwrap();
            prop_assert_eq!(&read, &table);
            prop_assert_eq!(written.data_json, read.columns().data_json);
        }
    }
}
