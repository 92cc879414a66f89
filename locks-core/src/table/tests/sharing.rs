//! Shared locks and limits.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::{LIMITED, blockers, request, table};
use crate::{
    matrix::ConflictMatrix,
    name::{LockName, Mode},
    table::{LockTable, Order, Request},
};

fn holders(table: &LockTable, name: &str) -> Vec<String> {
    let entries = table.entries(name);
    entries.map(|entry| entry.task.to_string()).collect()
}

#[test]
fn a_name_has_many_shared_holders_or_one_exclusive_holder() {
    let shared = ["a holds shared:x", "b holds shared:x"];
    assert!(blockers(&shared, "c asks shared:x").is_empty());
    assert_eq!(blockers(&shared, "c asks x"), ["a holds x", "b holds x"]);
    assert_eq!(blockers(&["a holds x"], "c asks shared:x"), ["a holds x"]);
    let original = ["original holds x"];
    assert_eq!(blockers(&original, "c asks shared:x"), ["original holds x"]);
}

#[test]
fn a_shared_lock_is_refused_by_other_names_as_an_exclusive_one_is() {
    let updating = ["a holds shared:box_update"];
    let expected = ["a holds box_update"];
    assert_eq!(blockers(&updating, "b asks shared:app_task_1"), expected);
    assert_eq!(
        blockers(&updating, "b asks shared:box_update app_task_1"),
        expected
    );
    let of_two = ["a holds shared:app_task_1", "b holds shared:app_task_1"];
    assert_eq!(blockers(&of_two, "c asks shared:box_update").len(), 2);
}

#[test]
fn a_matrix_rule_does_not_apply_between_holders_of_one_name() {
    // The rule refuses a1 while a name that begins with `c` is held, in either mode.
    let held = ["a# holds shared:c1"];
    assert!(blockers(&held, "b# asks shared:c1").is_empty());
    assert_eq!(blockers(&held, "b# asks shared:a1"), ["a# holds c1"]);
}

#[test]
fn a_waiting_exclusive_request_is_not_overtaken_by_shared_ones() {
    let waiting = ["a holds shared:x", "b waits x"];
    assert_eq!(blockers(&waiting, "c asks shared:x"), ["b waits x"]);
    let readers = ["a holds x", "b waits shared:x"];
    assert_eq!(blockers(&readers, "c asks shared:x"), ["a holds x"]);
}

#[test]
fn a_scope_that_shares_a_lock_gets_it_again_and_never_exclusively() {
    let held = table(&["a:1 holds shared:x", "b waits x"]);
    let again = request("a:1.2 asks shared:x");
    assert!(held.is_free(&again, Order::Behind(1)));
    let upgrade = request("a:1.2 asks x");
    assert!(held.cycle(&upgrade).is_some());
    assert!(held.cycle(&again).is_none());
}

#[test]
fn holders_of_a_shared_name_leave_one_by_one() {
    let first = request("a asks shared:x y");
    let second = request("b asks shared:x");
    let mut table = table(&[]);
    table.grant(&first, 1);
    table.grant(&second, 2);
    assert_eq!(holders(&table, "x"), ["a", "b"]);
    let id = (first.session.clone(), first.nonce);
    assert_eq!(table.granted(&id, &first.names), Some(1));
    assert!(table.release(&id, &first.names));
    assert_eq!(holders(&table, "x"), ["b"]);
    assert!(table.entry("y").is_none() && !table.release(&id, &first.names));
    assert!(table.columns().data_json.contains(r#""x":"b""#));
    let sessions: Vec<_> = table.holding_sessions().cloned().collect();
    assert_eq!(sessions, std::slice::from_ref(&second.session));
    let removed = table.release_where(|_, entry| entry.mode() == Mode::Shared);
    assert_eq!(removed.len(), 1);
    assert_eq!(removed[0].mode, Mode::Shared);
    assert!(table.session_ids().is_empty());
}

#[test]
fn shared_names_have_a_format_of_their_own() {
    let mut table = table(&[
        "a:7 holds shared:x y",
        "b holds shared:x",
        "c waits shared:y z",
        "original holds w",
    ]);
    let columns = table.columns();
    assert_eq!(columns.data_json, r#"{"w":"original","x":"a","y":"a"}"#);
    assert!(columns.meta_json.starts_with(r#"{"format":2,"#));
    assert!(
        columns.meta_json.contains(r#"[["y"],"z"]"#),
        "{}",
        columns.meta_json
    );
    let read = LockTable::parse(Some(&columns.data_json), Some(&columns.meta_json));
    assert_eq!(read.expect("it was written here"), table);
    let exclusive = super::table(&["a holds x", "b waits x"]).columns();
    assert!(exclusive.meta_json.starts_with(r#"{"format":1,"#));
}

#[test]
fn a_shared_lock_that_the_original_takes_is_stolen_from_all_holders() {
    let mut held = table(&["a holds shared:x", "b holds shared:x", "c holds y"]);
    let meta = held.columns().meta_json;
    for data in [r#"{"y":"c"}"#, r#"{"x":"b","y":"c"}"#] {
        let mut read = LockTable::parse(Some(data), Some(&meta)).expect("readable");
        let stolen: Vec<_> = read.stolen().map(|id| id.0.to_string()).collect();
        assert_eq!(stolen, ["ns/a", "ns/b"], "{data}");
        assert!(read.entries("x").all(|entry| entry.grant.is_none()));
        // They are forgotten together: the second one would look like a holder.
        assert!(!read.forget_stolen(|id| &*id.0 == "ns/a"));
        let columns = read.columns();
        let again = LockTable::parse(Some(&columns.data_json), Some(&columns.meta_json));
        assert_eq!(again.expect("it was written here"), read);
        assert!(read.forget_stolen(|_| true) && read.stolen().next().is_none());
    }
}

#[test]
fn a_limit_counts_held_names_once_and_those_of_earlier_requests() {
    let one = "c# asks b3";
    assert!(blockers(&["a# holds b1"], one).is_empty());
    let two = ["a# holds b1", "b# holds b2"];
    assert_eq!(blockers(&two, one), ["used up by a# holds b1, b# holds b2"]);
    assert!(blockers(&two, "c# asks other").is_empty());
    let shared = ["a# holds shared:b1", "b# holds shared:b1"];
    assert!(blockers(&shared, one).is_empty());
    let waiting = ["a# holds b1", "b# waits b2"];
    assert_eq!(
        blockers(&waiting, one),
        ["used up by a# holds b1, b# waits b2"]
    );
    // A request for a name that is counted already needs no room.
    assert_eq!(blockers(&two, "c# asks b1"), ["a# holds b1"]);
    assert!(blockers(&["a# holds shared:b1", "b# holds b2"], "c# asks shared:b1").is_empty());
}

#[test]
fn a_limit_counts_the_locks_of_the_original() {
    const ONE: ConflictMatrix = ConflictMatrix::platform().limits(&[("app_*", 1)]);
    let table = table(&["original holds app_task_1"]);
    let asks = |line: &str| Request {
        matrix: ONE,
        ..request(line)
    };
    let [second, other] = ["b asks app_task_2", "b asks mail_restart"].map(asks);
    assert_eq!(
        super::texts(&table.blockers(&second, Order::Behind(0))),
        ["used up by original holds app_task_1"]
    );
    assert!(table.is_free(&other, Order::Behind(0)));
}

#[test]
fn different_limits_are_different_matrices() {
    let held = ["a! holds b1"];
    assert_eq!(blockers(&held, "b# asks x"), ["a! has another matrix"]);
}

#[test]
fn a_request_that_barges_passes_those_that_wait_for_a_limit() {
    let table = table(&["a# holds b1", "b# waits b2"]);
    let request = request("c# asks b3");
    assert!(table.is_free(&request, Order::Barging));
    assert!(!table.is_free(&request, Order::Behind(1)));
}

#[test]
fn an_earlier_request_that_waits_for_the_requester_does_not_count() {
    // It waits for the lock of scope 1 by its name, or by the limit.
    for waits in ["w# waits x b2", "w# waits b2 b3"] {
        let table = table(&["a#:1 holds x b1", waits]);
        let inner = request("a#:1.2 asks b4");
        assert!(table.is_free(&inner, Order::Behind(1)), "{waits}");
        let other = request("o# asks b4");
        assert!(!table.is_free(&other, Order::Behind(1)), "{waits}");
    }
}

#[test]
fn a_limit_is_no_part_of_a_deadlock() {
    // Neither waits for the other alone: both wait for a limit.
    let table = table(&["a#:1 holds b1", "c#:3 holds b2", "c#:3 waits b3"]);
    assert!(table.cycle(&request("a#:1.2 asks b4")).is_none());
}

#[test]
fn a_limit_that_the_own_scope_uses_up_is_a_deadlock() {
    let table = table(&["a#:1 holds b1", "a#:1.2 holds b2"]);
    let cycle = table.cycle(&request("a#:1.2 asks b3"));
    let expected = ["used up by a# holds b1, a# holds b2"];
    assert_eq!(super::texts(&cycle.expect("it waits for itself")), expected);
    assert!(table.cycle(&request("a#:1.2 asks b2")).is_some());
    assert!(table.cycle(&request("o#:5 asks b3")).is_none());
}

const NAMES: [&str; 6] = ["a1", "b1", "b2", "b3", "c1", "c2"];

/// The names of a request, and whether it shares them.
type Asked = Vec<(usize, bool)>;

fn asked() -> impl Strategy<Value = Asked> {
    proptest::collection::vec((0..NAMES.len(), any::<bool>()), 1..3)
}

/// The request of task `number`.
fn request_of(number: usize, asked: &Asked) -> Request {
    let words = asked.iter().map(|(name, shared)| {
        let prefix = if *shared { "shared:" } else { "" };
        format!("{prefix}{}", NAMES[*name])
    });
    request(&format!(
        "t{number}# asks {}",
        words.collect::<Vec<_>>().join(" ")
    ))
}

fn refused(asked: (&LockName, Mode), held: (&LockName, Mode)) -> bool {
    if asked.0 == held.0 {
        return asked.1 == Mode::Exclusive || held.1 == Mode::Exclusive;
    }
    asked.0.as_str() == "a1" && held.0.as_str().starts_with('c')
}

/// Whether `request` may be granted while these are held and those wait before it.
fn may_be_granted(request: &Request, held: &[Request], waiting: &[Request]) -> bool {
    let pairs = |other: &Request| -> Vec<_> {
        let mine = request.names.with_modes();
        let theirs = other.names.with_modes();
        let theirs: Vec<_> = theirs.map(|(name, mode)| (name.clone(), mode)).collect();
        mine.flat_map(|(name, mode)| {
            let theirs = theirs.clone().into_iter();
            theirs.map(move |their| ((name.clone(), mode), their))
        })
        .collect()
    };
    let by_held = |other: &Request| {
        let mut pairs = pairs(other).into_iter();
        pairs.any(|(mine, their)| refused((&mine.0, mine.1), (&their.0, their.1)))
    };
    let by_waiting = |other: &Request| {
        by_held(other)
            || pairs(other)
                .into_iter()
                .any(|(mine, their)| refused((&their.0, their.1), (&mine.0, mine.1)))
    };
    let all = held.iter().chain(waiting).chain([request]);
    let counted: BTreeSet<_> = all
        .flat_map(|request| request.names.iter())
        .filter(|name| name.as_str().starts_with('b'))
        .collect();
    let needs_room = request
        .names
        .iter()
        .any(|name| name.as_str().starts_with('b'));
    let has_no_room = needs_room && counted.len() > 2;
    !(has_no_room || held.iter().any(by_held) || waiting.iter().any(by_waiting))
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 2_000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn requests_are_granted_by_mode_and_limit(
        requests in proptest::collection::vec((asked(), any::<bool>()), 1..8),
    ) {
        let (mut held, mut waiting) = (Vec::new(), Vec::new());
        let mut table = LockTable::default();
        for (number, (asked, waits)) in requests.iter().enumerate() {
            let request = request_of(number, asked);
            let free = may_be_granted(&request, &held, &waiting);
            let order = Order::Behind(waiting.len());
            prop_assert_eq!(table.is_free(&request, order), free);
            prop_assert_eq!(table.blockers(&request, order).is_empty(), free);
            prop_assert_eq!(request.matrix.fingerprint(), LIMITED.fingerprint());
            if free {
                table.grant(&request, 1);
                held.push(request);
            } else if *waits {
                table.enqueue(&request, &request.session, 2);
                waiting.push(request);
            }
        }
        // The row is the table again.
        let columns = table.columns();
        let read = LockTable::parse(Some(&columns.data_json), Some(&columns.meta_json));
        prop_assert_eq!(read.expect("it was written here"), table.clone());
        for request in held.drain(..) {
            let id = (request.session.clone(), request.nonce);
            prop_assert!(table.release(&id, &request.names));
            prop_assert!(!table.release(&id, &request.names));
        }
        prop_assert!(table.holders().is_empty() && table.holding_sessions().next().is_none());
    }
}
