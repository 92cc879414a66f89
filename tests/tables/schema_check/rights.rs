//! The rights that an account needs, and each of them missing.

use std::time::Duration;

use locks_core::{Expiry, LockError, LockManager};
use locks_tests::{
    engine::{Database, Engine},
    row::wait_until_empty,
    sessions,
};

use super::{
    SOON, TABLES, assert_none, connect, make_tables, migration, on_private_server, refusal, works,
};

/// The rights that an account needs on a table.
type Rights = [(&'static str, &'static [&'static str]); 3];

/// All rights that are needed. Rows are never deleted from `locks`.
pub(crate) const FULL: Rights = [
    ("locks", &["SELECT", "INSERT", "UPDATE"]),
    ("lock_sessions", &["SELECT", "INSERT", "UPDATE", "DELETE"]),
    ("lock_fences", &["SELECT", "INSERT", "UPDATE", "DELETE"]),
];

/// An account without other rights in the database.
pub(crate) struct Account {
    pub(crate) name: String,
    pub(crate) url: String,
}

impl Account {
    /// Creates an account with these rights. The server must be a private one.
    pub(crate) async fn create(
        db: &Database,
        name: &str,
        rights: &[(&str, impl AsRef<[&'static str]>)],
    ) -> Self {
        let create = match db.engine() {
            Engine::MySql => format!("CREATE USER {name}@'%' IDENTIFIED BY 'pencil'"),
            _ => format!(
                "REVOKE CREATE ON SCHEMA public FROM PUBLIC; CREATE USER {name} PASSWORD 'pencil'"
            ),
        };
        db.execute(&create).await;
        for (table, rights) in rights {
            if !rights.as_ref().is_empty() {
                let rights = rights.as_ref().join(", ");
                db.execute(&format!("GRANT {rights} ON {table} TO {name}"))
                    .await;
            }
        }
        let url = db.url_with(|url| {
            url.set_username(name).expect("a URL with a host");
            url.set_password(Some("pencil")).expect("a URL with a host");
        });
        let name = name.to_owned();
        Self { name, url }
    }
}

async fn each_missing_right_is_named(db: Database) {
    make_tables(&db).await;
    let mut failed = Vec::new();
    let needed = FULL.iter().enumerate();
    let needed =
        needed.flat_map(|(n, (table, rights))| rights.iter().map(move |r| (n, *table, *r)));
    for (number, (place, table, right)) in needed.enumerate() {
        let mut rights = FULL.map(|(table, rights)| (table, rights.to_vec()));
        rights[place].1.retain(|other| *other != right);
        let account = Account::create(&db, &format!("limited_{number}"), &rights).await;
        if let Err(what) = refusal(&account.url, &[table, right, "GRANT"]).await {
            failed.push(format!("no {right} on {table}: {what}"));
        }
    }
    assert_none(&failed);
}

#[test]
fn each_missing_right_is_named_on_mariadb() {
    on_private_server(Engine::MySql, each_missing_right_is_named);
}

#[test]
fn each_missing_right_is_named_on_postgres() {
    on_private_server(Engine::Postgres, each_missing_right_is_named);
}

#[test]
fn denied_connection_is_not_taken_for_missing_tables() {
    on_private_server(Engine::Postgres, async |db| {
        let account = Account::create(&db, "stranger", &FULL[..0]).await;
        let database = db.url_with(|_| {});
        let database = database.rsplit('/').next().expect("a path");
        let database = database.split('?').next().expect("a name");
        db.execute(&format!(
            r#"REVOKE CONNECT ON DATABASE "{database}" FROM PUBLIC"#
        ))
        .await;
        let answer = connect(&account.url, "stranger").await;
        let error = answer.expect_err("it may not connect");
        let text = error.to_string();
        assert!(matches!(error, LockError::Database { .. }), "{error:?}");
        assert!(text.contains("permission denied"), "{text}");
        assert!(!text.contains("lock tables"), "{text}");
        assert!(!error.is_transient(), "{error:?}");
    });
}

/// With exactly these rights everything works, including the eviction of a dead holder.
async fn the_documented_rights_suffice(db: Database) {
    make_tables(&db).await;
    let account = Account::create(&db, "limited", &FULL).await;
    let limited = connect(&account.url, "limited").await;
    let limited = limited.expect("nothing is missing");
    works(&limited).await.unwrap();
    let doomed = LockManager::builder().task_id("doomed");
    let doomed = doomed.expiry(Expiry::After(Duration::from_secs(30)));
    let doomed = doomed.connect(&account.url).await.expect("as before");
    doomed.acquire("x").await.expect("it is free").detach();
    let taken = limited.release_task("doomed").await.expect("it may delete");
    assert_eq!(taken.len(), 1);
    limited.close().await.expect("it may delete its sessions");
    doomed.close().await.expect("it may delete its sessions");
    wait_until_empty(&db, "platform", SOON).await;
    sessions::wait_until_only(&db, &[], SOON).await;
}

#[test]
fn the_documented_rights_suffice_on_mariadb() {
    on_private_server(Engine::MySql, the_documented_rights_suffice);
}

#[test]
fn the_documented_rights_suffice_on_postgres() {
    on_private_server(Engine::Postgres, the_documented_rights_suffice);
}

/// Other ways to grant these rights: on the database, on the server, through a role.
async fn rights_count_however_they_are_given(db: Database) {
    make_tables(&db).await;
    let database = db.url().rsplit('/').next().expect("a path");
    let all = "SELECT, INSERT, UPDATE, DELETE";
    let ways = match db.engine() {
        Engine::MySql => vec![
            format!("GRANT {all} ON {database}.* TO limited_0"),
            "GRANT SELECT, INSERT, UPDATE, DELETE ON *.* TO limited_1".to_owned(),
            format!(
                "CREATE ROLE locker; GRANT {all} ON {database}.* TO locker;
                 GRANT locker TO limited_2; SET DEFAULT ROLE locker FOR limited_2"
            ),
            // A pattern, as hosting providers grant it.
            format!(
                "GRANT {all} ON `{}%`.* TO limited_3",
                &database[..database.len() - 1].replace('_', "\\_")
            ),
        ],
        _ => vec![
            format!("GRANT {all} ON ALL TABLES IN SCHEMA public TO limited_0"),
            "GRANT pg_read_all_data, pg_write_all_data TO limited_1".to_owned(),
            format!(
                "CREATE ROLE locker; GRANT {all} ON locks, lock_sessions, lock_fences TO locker;
                 GRANT locker TO limited_2"
            ),
            format!("GRANT {all} ON locks, lock_sessions, lock_fences TO PUBLIC"),
        ],
    };
    let mut failed = Vec::new();
    for (number, way) in ways.iter().enumerate() {
        let none: [(&str, [&str; 0]); 0] = [];
        let account = Account::create(&db, &format!("limited_{number}"), &none).await;
        db.execute(way).await;
        match connect(&account.url, &account.name).await {
            Err(error) => failed.push(format!("{way}: {error:?}")),
            Ok(locks) => {
                if let Err(what) = works(&locks).await {
                    failed.push(format!("{way}: {what}"));
                }
                locks.close().await.expect("it closes");
            }
        }
    }
    assert_none(&failed);
}

#[test]
fn rights_count_however_they_are_given_on_mariadb() {
    on_private_server(Engine::MySql, rights_count_however_they_are_given);
}

#[test]
fn rights_count_however_they_are_given_on_postgres() {
    on_private_server(Engine::Postgres, rights_count_however_they_are_given);
}

/// The comments of the migrations name the rights.
#[test]
fn the_migrations_name_the_rights() {
    for engine in [Engine::MySql, Engine::Postgres] {
        let text = migration(engine);
        for table in TABLES {
            let grant = |line: &str| {
                line.starts_with("--") && line.contains("GRANT") && line.contains(table)
            };
            assert!(text.lines().any(grant), "{engine}: no GRANT for {table}");
        }
    }
}
