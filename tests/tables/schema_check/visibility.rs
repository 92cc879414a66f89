//! Accounts that see other rows, or other tables, than the other accounts.

use std::time::{Duration, Instant};

use locks_core::{Expiry, LockError, LockManager};
use locks_tests::{
    engine::{Database, Engine},
    events::Events,
    sessions::{self, Session},
};
use tracing::Level;

use super::{
    SOON, assert_none, connect, make_tables, on_private_server,
    rights::{Account, FULL},
};

/// How long an account that sees too little is observed.
const LONG_ENOUGH: Duration = Duration::from_secs(3);

/// Hides rows of the table from the accounts that do not own it.
fn hide(table: &str, column: &str) -> String {
    format!(
        "ALTER TABLE {table} ENABLE ROW LEVEL SECURITY;
         CREATE POLICY writes ON {table} FOR INSERT WITH CHECK (true);
         CREATE POLICY changes ON {table} FOR UPDATE USING (true);
         CREATE POLICY removals ON {table} FOR DELETE USING (true);
         CREATE POLICY reads ON {table} FOR SELECT USING ({column})"
    )
}

/// The account is refused, or is granted nothing. The holder keeps its lock.
async fn does_no_harm(db: &Database, limited: &Account) -> Result<(), String> {
    let owner = LockManager::builder().task_id("owner");
    let owner = owner.expiry(Expiry::After(Duration::from_secs(30)));
    let owner = owner.connect(db.url()).await.expect("it owns the tables");
    let guard = owner.acquire("x").await.expect("it is free");
    let before = (Session::all(db).await.len(), sessions::fences(db).await);
    let start = Instant::now();
    match connect(&limited.url, "limited").await {
        Err(LockError::Schema { .. }) => {}
        Err(error) => return Err(format!("another error: {error:?}")),
        Ok(locks) => {
            while start.elapsed() < LONG_ENOUGH {
                // Any error is as good as `Timeout` here.
                let waiting = locks.wait("x").timeout(LONG_ENOUGH / 3);
                let answer = tokio::time::timeout(SOON, waiting).await;
                if let Ok(stolen) = answer.map_err(|_| "no answer to wait")? {
                    let (next, held) = (stolen.token(), guard.token());
                    return Err(format!("granted to two, with {held} and {next}"));
                }
            }
        }
    }
    if guard.is_lost() {
        return Err(format!("the owner lost it: {:?}", guard.lost().await));
    }
    let (all, fences) = (Session::all(db).await, sessions::fences(db).await);
    let there = all.iter().any(|session| session.task == "owner");
    if !there || !before.1.iter().all(|fence| fences.contains(fence)) {
        return Err(format!(
            "the owner's session was deleted: {all:?}, {fences:?}"
        ));
    }
    let released = tokio::time::timeout(SOON, guard.release()).await;
    let released = released.map_err(|_| "no answer to release")?;
    released.map_err(|error| format!("not released: {error:?}"))
}

#[test]
fn row_level_security_does_not_evict_live_sessions() {
    const OWN: &str = "taskId = 'limited'";
    let cases = [
        vec![("lock_sessions", OWN)],
        vec![("lock_fences", "false")],
        vec![("lock_sessions", OWN), ("lock_fences", "false")],
        vec![("locks", "false")],
    ];
    on_private_server(Engine::Postgres, async |first| {
        let mut failed = Vec::new();
        for (number, hidden) in cases.iter().enumerate() {
            let db = Database::create_on(first.url());
            make_tables(&db).await;
            let limited = Account::create(&db, &format!("limited_{number}"), &FULL).await;
            for (table, column) in hidden {
                db.execute(&hide(table, column)).await;
            }
            if let Err(what) = does_no_harm(&db, &limited).await {
                failed.push(format!("{hidden:?}: {what}"));
            }
        }
        assert_none(&failed);
    });
}

/// Two accounts with different `search_path`s would each have a lock table of their own.
#[test]
fn second_lock_table_in_another_schema_is_reported() {
    on_private_server(Engine::Postgres, async |db| {
        let events = Events::keep();
        let none: [(&str, [&str; 0]); 0] = [];
        let mut managers = Vec::new();
        for (account, schema) in [
            ("left_account", "left_side"),
            ("right_account", "right_side"),
        ] {
            let account = Account::create(&db, account, &none).await;
            let name = &account.name;
            db.execute(&format!(
                "CREATE SCHEMA {schema} AUTHORIZATION {name};
                 ALTER ROLE {name} SET search_path = {schema}"
            ))
            .await;
            managers.push(connect(&account.url, name).await);
        }
        let second = managers.pop().expect("two were made");
        let first = managers.pop().expect("two were made");
        let first = first.expect("there is no other lock table yet");
        let _guard = first.acquire("x").await.expect("it is free");
        let reported = match second {
            Err(error) => error.to_string().contains("left_side"),
            Ok(_) => events.all().iter().any(|event| {
                let text = format!("{:?}", event.fields);
                event.level == Level::WARN && text.contains("left_side")
            }),
        };
        assert!(
            reported,
            "two lock tables, and neither an error nor a warning"
        );
    });
}
