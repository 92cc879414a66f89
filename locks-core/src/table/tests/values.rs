//! The operations of the table, one by one.

use std::{
    collections::BTreeSet,
    time::{Duration, SystemTime},
};

use super::{blockers, names, request, session, table, texts};
use crate::{
    matrix::ConflictMatrix,
    name::LockName,
    table::{Entry, LockTable, Nonce, Order, Request, RequestId, SessionId},
};

fn id(request: &Request) -> RequestId {
    (request.session.clone(), request.nonce)
}

fn sessions<'i>(ids: impl IntoIterator<Item = &'i SessionId>) -> Vec<String> {
    ids.into_iter().map(|id| id.0.to_string()).collect()
}

fn held(table: &LockTable) -> Vec<String> {
    let holders = table.holders().into_iter();
    holders
        .map(|holder| format!("{} holds {}", holder.task_id, holder.name))
        .collect()
}

#[test]
fn ids_and_fence_rows_lie_in_the_ranges_of_their_owners() {
    let id = SessionId::new("ns", 0xab, false);
    assert_eq!(&*id.0, "ns/00000000000000ab");
    assert_eq!(&*SessionId::none().0, "");
    assert_eq!(SessionId::start_of("ns"), "ns/");

    let (start, end) = SessionId::range_of("ns");
    assert_eq!((&*start, &*end), ("ns/", "ns0"));
    let contains = |text: &str| *start <= *text && *text < *end;
    assert!(contains(&id.0) && contains(&SessionId::new("ns", u64::MAX, false).0));
    for other in ["n", "ns0", "ns-a", "nsa"] {
        assert!(!contains(&SessionId::new(other, 1, false).0), "{other}");
    }

    let rows = [0, 1, 64].map(|number| id.fence_row(number));
    assert_eq!(
        rows,
        [
            "ns/00000000000000ab",
            "ns/00000000000000ab#1",
            "ns/00000000000000ab#64"
        ]
    );
    let (start, end) = id.fence_range();
    for row in &rows {
        assert!(start <= *row && *row < end, "{row}");
        assert_eq!(SessionId::of_fence_row(row), id);
    }
    let next = SessionId::new("ns", 0xac, false).fence_row(0);
    assert!(end < next);
}

#[test]
fn requests_are_equal_if_all_their_fields_are() {
    let one = request("a:1 asks x");
    assert_eq!(one, one.clone());
    let changes: [fn(&mut Request); 7] = [
        |other| other.session = SessionId::none(),
        |other| other.nonce = Nonce(0),
        |other| other.task = "b".into(),
        |other| other.names = names(&["y"]),
        |other| other.matrix = ConflictMatrix::exclusive(),
        |other| other.path = vec![2].into(),
        |other| other.since += 1,
    ];
    for change in changes {
        let mut other = one.clone();
        change(&mut other);
        assert_ne!(one, other);
    }
}

#[test]
fn grant_is_found_only_by_its_own_request_and_only_as_a_whole() {
    let one = request("a asks x y");
    let mut other = request("a asks z");
    let mut table = table(&["b holds w"]);
    table.grant(&one, 7);
    table.grant(&other, 8);
    assert_eq!(table.granted(&id(&one), &one.names), Some(7));
    assert_eq!(table.granted(&id(&other), &other.names), Some(8));
    // A lock of another request of the session.
    assert_eq!(table.granted(&id(&one), &names(&["x", "z"])), None);
    assert_eq!(table.granted(&id(&one), &names(&["z"])), None);
    // A lock that is not held, or that another session holds.
    assert_eq!(table.granted(&id(&one), &names(&["x", "free"])), None);
    assert_eq!(table.granted(&id(&one), &names(&["w"])), None);
    // The nonce of the grant under another session.
    other.session = session("b");
    assert_eq!(table.granted(&id(&other), &other.names), None);
    assert_eq!(table.entry("free"), None);
    assert_eq!(&*table.entry("w").expect("held").task, "b");
}

#[test]
fn release_removes_the_locks_of_its_own_request_only() {
    let one = request("a asks x y");
    let other = request("a asks z");
    let mut table = table(&["b holds w"]);
    table.grant(&one, 7);
    table.grant(&other, 8);
    let foreign: RequestId = (session("b"), one.nonce);
    assert!(!table.release(&foreign, &one.names));
    assert!(!table.release(&id(&one), &names(&["z", "w", "free"])));
    assert!(table.release(&id(&one), &names(&["x", "z"])));
    assert_eq!(held(&table), ["b holds w", "a holds y", "a holds z"]);
    // Returns true also if the first name is not held any more.
    assert!(table.release(&id(&one), &one.names));
    assert_eq!(sessions(table.holding_sessions()), ["ns/a", "ns/b"]);
    assert!(table.release(&id(&other), &other.names));
    assert_eq!(sessions(table.holding_sessions()), ["ns/b"]);
}

#[test]
fn release_where_removes_and_returns_the_chosen_locks() {
    let mut table = table(&["a holds x y", "b holds z", "original holds o"]);
    let of_a = |_: &LockName, entry: &Entry| &*entry.task == "a";
    let removed = table.release_where(of_a);
    let removed: Vec<_> = removed.iter().map(|holder| holder.name.as_str()).collect();
    assert_eq!(removed, ["x", "y"]);
    assert_eq!(held(&table), ["original holds o", "b holds z"]);
    assert!(table.release_where(of_a).is_empty());
    assert_eq!(table.release_where(|_, _| true).len(), 2);
    assert_eq!(table, LockTable::default());
    // The platform's matrix of the original's lock is gone as well.
    assert!(table.is_free(&request("e! asks x"), Order::Behind(0)));
}

#[test]
fn regranted_name_has_the_new_grant_only() {
    let mut table = table(&["a holds x", "original holds y"]);
    let other = request("b asks x y");
    table.grant(&other, 9);
    assert_eq!(held(&table), ["b holds x", "b holds y"]);
    assert_eq!(sessions(table.holding_sessions()), ["ns/b"]);
    assert!(table.release(&id(&other), &other.names));
    assert_eq!(table, LockTable::default());
}

#[test]
fn queue_is_ordered_by_ticket_and_then_by_arrival() {
    let mut table = LockTable::default();
    for (task, ticket) in [("c", 5), ("a", 3), ("d", 5), ("b", 4), ("e", 6)] {
        let request = request(&format!("{task} asks x"));
        table.enqueue(&request, &request.session, ticket);
    }
    let tasks = |table: &LockTable| {
        let queue = table.queue().iter();
        queue
            .map(|queued| queued.task.to_string())
            .collect::<Vec<_>>()
    };
    assert_eq!(tasks(&table), ["a", "b", "c", "d", "e"]);
    assert_eq!(table.dequeue_where(|queued| queued.ticket == 5), 2);
    assert_eq!(tasks(&table), ["a", "b", "e"]);
    assert_eq!(table.dequeue_where(|queued| queued.ticket == 5), 0);
    assert_eq!(table.dequeue_where(|_| true), 3);
}

#[test]
fn queued_request_is_found_by_session_and_nonce() {
    let [first, one, other] = ["z asks x", "a asks x", "a asks y"].map(request);
    let mut table = LockTable::default();
    for request in [&first, &one, &other] {
        table.enqueue(request, &request.session, 1);
    }
    assert_eq!(table.position(&id(&one)), Some(1));
    assert_eq!(table.position(&id(&other)), Some(2));
    let unknown: RequestId = (session("b"), one.nonce);
    assert_eq!(table.position(&unknown), None);
    assert!(!table.move_request(&unknown, &session("c")));
    assert!(!table.dequeue(&unknown));

    // A request is queued under a session of its own choice.
    let moved: RequestId = (session("c"), one.nonce);
    assert!(table.move_request(&id(&one), &moved.0));
    assert_eq!(table.position(&moved), Some(1));
    assert_eq!(table.position(&id(&one)), None);
    assert!(table.dequeue(&moved));
    assert_eq!(table.position(&id(&other)), Some(1));
    table.enqueue(&one, &moved.0, 0);
    assert_eq!(table.position(&moved), Some(0));
}

#[test]
fn sessions_are_those_of_locks_and_queued_requests() {
    let mut table = table(&["a holds x", "a holds y", "b holds z", "original holds o"]);
    for (line, under) in [("a asks z", "a2"), ("c asks z", "c"), ("b asks x", "b")] {
        let request = request(line);
        table.enqueue(&request, &session(under), 1);
    }
    let written = table.columns();
    let data = written.data_json.replace(r#""y":"a""#, r#""y":"d""#);
    let table = LockTable::parse(Some(&data), Some(&written.meta_json)).expect("readable");

    assert_eq!(
        sessions(&table.session_ids()),
        ["ns/a", "ns/a2", "ns/b", "ns/c"]
    );
    assert_eq!(sessions(table.holding_sessions()), ["ns/a", "ns/b"]);
    assert_eq!(sessions(table.stolen()), ["ns/a"]);
    assert_eq!(
        sessions(&table.sessions_of(Some("a"))),
        ["ns/a", "ns/a2", "ns/a"]
    );
    assert_eq!(sessions(&table.sessions_of(Some("c"))), ["ns/c"]);
    assert_eq!(sessions(&table.sessions_of(Some("d"))), [""; 0]);
    assert_eq!(table.sessions_of(None).len(), 6);
}

#[test]
fn grants_of_sessions_are_grouped_by_request() {
    let [one, two, other] = ["a asks x y", "a asks z", "b asks w"].map(request);
    let mut table = table(&["original holds o"]);
    for (request, token) in [(&one, 1), (&two, 2), (&other, 3)] {
        table.grant(request, token);
    }
    let grants = table.grants_of(&BTreeSet::from([session("a"), session("c")]));
    assert_eq!(grants.len(), 2);
    assert_eq!(grants[&id(&one)], *names(&["x", "y"]));
    assert_eq!(grants[&id(&two)], *names(&["z"]));
    assert!(table.grants_of(&BTreeSet::new()).is_empty());
}

#[test]
fn stolen_locks_are_forgotten_with_their_dead_session() {
    let mut table = table(&["a holds x", "b holds y"]);
    let written = table.columns();
    let mut table = LockTable::parse(Some("{}"), Some(&written.meta_json)).expect("readable");
    assert!(table.entry("x").is_none() && table.holders().is_empty());
    assert_eq!(sessions(table.stolen()), ["ns/a", "ns/b"]);
    assert!(table.session_ids().is_empty());
    table.forget_stolen(|id| *id == session("a"));
    assert_eq!(sessions(table.stolen()), ["ns/b"]);
    // They are still written while a session of them is not dead.
    let written = table.columns();
    assert_eq!(written.data_json, "{}");
    assert!(written.meta_json.contains(r#""y":["#), "{written:?}");
    assert!(!written.meta_json.contains(r#""x":["#), "{written:?}");
}

#[test]
fn reports_have_the_times_of_the_table() {
    let since = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    let mut one = request("a asks x y");
    let mut table = table(&["w waits x y"]);
    let waiter = table.queue()[0].report();
    assert_eq!((&*waiter.task_id, waiter.since), ("w", Some(since)));
    assert_eq!(waiter.names, *names(&["x", "y"]));
    table.grant(&one, 12);
    one.names = names(&["z"]);
    one.since = -1;
    table.grant(&one, 13);
    let found: Vec<_> = table
        .holders()
        .into_iter()
        .map(|h| (h.name.to_string(), h.task_id.to_string(), h.token, h.since))
        .collect();
    let expected = |name: &str, token, since| (name.to_owned(), "a".to_owned(), Some(token), since);
    assert_eq!(
        found,
        [
            expected("x", 12, Some(since)),
            expected("y", 12, Some(since)),
            // A time before 1970 is out of range.
            expected("z", 13, None),
        ]
    );
}

#[test]
fn marker_is_in_meta_json_while_its_request_is_granted_or_queued() {
    let one = request("a asks x");
    let marker = LockTable::marker_of(one.nonce);
    assert_eq!(marker, format!(",{},", one.nonce.0));
    let mut table = LockTable::default();
    assert!(!table.columns().meta_json.contains(&marker));
    table.enqueue(&one, &one.session, 1_000_000);
    assert!(table.columns().meta_json.contains(&marker));
    table.dequeue(&id(&one));
    assert!(!table.columns().meta_json.contains(&marker));
    table.grant(&one, 1_000_000);
    assert!(table.columns().meta_json.contains(&marker));
}

#[test]
fn requester_is_nested_if_a_lock_belongs_to_it() {
    let table = table(&[
        "a holds x",
        "b:1.2 holds y",
        "original holds o",
        "c waits x",
    ]);
    for (line, expected) in [
        ("a asks z", true),
        ("a:7 asks z", true),
        ("b:1.2.3 asks z", true),
        ("c:2 asks z", true),
        ("b:1 asks z", false),
        ("b asks z", false),
        ("c asks z", false),
        ("original asks z", false),
    ] {
        assert_eq!(table.is_nested(&request(line)), expected, "{line}");
    }
}

#[test]
fn at_most_twenty_queued_requests_are_reported() {
    let waits: Vec<_> = (0..25).map(|n| format!("w{n} waits x")).collect();
    let mut scenario: Vec<_> = waits.iter().map(String::as_str).collect();
    let found = blockers(&scenario, "a asks x");
    assert_eq!(found, waits[..20]);
    scenario.push("h holds x");
    let found = blockers(&scenario, "a asks x");
    assert_eq!((&*found[0], found.len()), ("h holds x", 21));
    // Requests that do not block are not counted if nothing else blocks.
    let mut scenario = vec!["u waits box_update"; 25];
    scenario.extend(["a holds app_task_1", "w waits x"]);
    assert_eq!(blockers(&scenario, "a asks app_task_2 x"), ["w waits x"]);
}

#[test]
fn request_of_another_matrix_is_blocked_by_every_lock_when_judged_by_ours() {
    let table = table(&["e! holds x", "e! waits y", "f! waits z"]);
    let platform = ConflictMatrix::platform();
    assert_eq!(texts(&table.blockers_of(0, &platform)), ["e! holds x"]);
    assert_eq!(
        texts(&table.blockers_of(1, &platform)),
        ["e! holds x", "e! waits y"]
    );
    let exclusive = ConflictMatrix::exclusive();
    assert_eq!(texts(&table.blockers_of(1, &exclusive)), [""; 0]);
}

#[test]
fn never_expiring_lock_of_a_task_belongs_to_its_queued_requests() {
    // a holds x outside any scope under a session that never expires, and waits under
    // another session for y, which b holds.
    let table_of = |task: &str| {
        let mut table = table(&["b holds y", "v waits x z"]);
        let mut lock = request("a asks x");
        lock.session = session("a_forever");
        table.grant(&lock, 1);
        let queued = request(&format!("{task} asks y"));
        table.enqueue(&queued, &queued.session, 9);
        table
    };
    let asks = request("b asks z");
    // v waits for a, and a for b.
    assert!(table_of("a").is_free(&asks, Order::Behind(1)));
    assert!(!table_of("c").is_free(&asks, Order::Behind(1)));
}

#[test]
fn texts_are_relative_to_the_first_base_while_the_sessions_stay() {
    let meta = |table: &mut LockTable| table.columns().meta_json;
    let mut table = LockTable::default();
    let [mut one, mut two] = ["a asks x", "a asks y"].map(request);
    (one.since, two.since) = (500, 700);
    table.grant(&one, 100);
    table.grant(&two, 300);
    let base = r#""token":100,"since":500,"#;
    let written = meta(&mut table);
    assert!(written.contains(base), "{written}");
    assert!(
        written.contains(&format!(r#""y":[0,{},200,200]"#, two.nonce.0)),
        "{written}"
    );
    // The lock with the lowest token is released, and the base is kept.
    table.release(&id(&one), &one.names);
    let written = meta(&mut table);
    assert!(written.contains(base), "{written}");
    // Another session: the base is the lowest of all tokens, tickets and times.
    let mut three = request("b asks y");
    three.since = 600;
    table.enqueue(&three, &three.session, 200);
    let written = meta(&mut table);
    assert!(written.contains(r#""token":200,"since":600,"#), "{written}");
}

#[test]
fn only_higher_formats_are_refused() {
    for (format, expected) in [
        ("0", true),
        ("1", true),
        ("2", true),
        ("3", false),
        ("null", true),
    ] {
        let meta = format!(r#"{{"format":{format}}}"#);
        let result = LockTable::parse(Some("{}"), Some(&meta));
        assert_eq!(result.is_ok(), expected, "{format}");
    }
    let unknown = LockTable::parse(Some("{}"), Some(r#"{"other":1}"#));
    assert!(unknown.is_err());
    let newer = LockTable::parse(Some("{}"), Some(r#"{"format":3,"other":1}"#));
    let error = newer.expect_err("a newer format").to_string();
    assert!(
        error.contains("format 3") && error.contains("update"),
        "{error}"
    );
}

#[test]
fn name_of_a_lock_is_kept_as_it_was_found() {
    let table = LockTable::parse(Some(r#"{"":"a"," x ":"b"}"#), None).expect("readable");
    let found: Vec<_> = table.holders().into_iter().map(|h| h.name).collect();
    assert_eq!(found, ["", " x "].map(|name| LockName::found(name.into())));
}
