//! Tables whose rows a crash removes, or whose columns are too narrow.

use locks_tests::{
    engine::{Database, Engine, run_async},
    events::Events,
};
use tracing::Level;

use super::{
    SOON, TABLES, assert_none, connect, make_tables, on_private_server, refusal,
    rights::{Account, FULL},
    says, works,
};

/// Whether the connect is refused, or a WARN event contains these words.
async fn refused_or_warned(db: &Database, words: &[&str]) -> Result<(), String> {
    let events = Events::keep();
    let before = events.all().len();
    let Err(refused) = refusal(db.url(), words).await else {
        return Ok(());
    };
    let all = events.all();
    let warned = all[before..].iter().any(|event| {
        let text = format!("{:?}", event.fields);
        event.level == Level::WARN && words.iter().all(|word| says(&text, word))
    });
    if warned { Ok(()) } else { Err(refused) }
}

/// A server crash empties these tables. Their sessions then appear to be dead.
#[test]
fn unlogged_tables_are_refused_or_warned_of() {
    run_async(Engine::Postgres, async |first| {
        let mut failed = Vec::new();
        for table in TABLES {
            let db = Database::create(first.engine());
            make_tables(&db).await;
            db.execute(&format!("ALTER TABLE {table} SET UNLOGGED"))
                .await;
            if let Err(what) = refused_or_warned(&db, &[table, "UNLOGGED"]).await {
                failed.push(format!("{table}: {what}"));
            }
        }
        assert_none(&failed);
    });
}

/// With `pg_temp` first, every connection creates tables of its own.
#[test]
fn temporary_tables_do_not_split_the_locks() {
    run_async(Engine::Postgres, async |db| {
        let name = db.url().rsplit('/').next().expect("a path");
        let sql = format!("ALTER DATABASE {name} SET search_path = pg_temp, public");
        db.execute(&sql).await;
        let managers = (connect(db.url(), "a").await, connect(db.url(), "b").await);
        let (Ok(a), Ok(b)) = managers else { return };
        let _guard = a.acquire("x").await.expect("it is free");
        let refused = b.acquire("x").await.map(|guard| guard.token());
        assert!(refused.expect_err("both hold it").is_busy());
    });
}

/// These engines have no transactions, and two of them lose rows in a crash.
#[test]
fn tables_without_transactions_are_refused() {
    run_async(Engine::MySql, async |first| {
        let mut failed = Vec::new();
        for table in TABLES {
            for engine in ["MyISAM", "Aria", "MEMORY"] {
                // It has no columns for long texts.
                if (table, engine) == ("locks", "MEMORY") {
                    continue;
                }
                let db = Database::create(first.engine());
                make_tables(&db).await;
                db.execute(&format!("ALTER TABLE {table} ENGINE = {engine}"))
                    .await;
                if let Err(what) = refusal(db.url(), &[table, engine, "InnoDB"]).await {
                    failed.push(format!("{table} in {engine}: {what}"));
                }
            }
        }
        assert_none(&failed);
    });
}

/// Tokens are times in microseconds, which need more than 32 bits.
fn a_narrow_version(engine: Engine) {
    let narrow = match engine {
        Engine::MySql => "ALTER TABLE locks MODIFY version INT DEFAULT 1",
        _ => "ALTER TABLE locks ALTER version TYPE INTEGER",
    };
    on_private_server(engine, async |db| {
        connect(db.url(), "maker").await.expect("it may make them");
        db.execute(narrow).await;
        // This account may not alter the column.
        let account = Account::create(&db, "limited", &FULL).await;
        let refused = refusal(&account.url, &["locks", "version", "BIGINT"]).await;
        refused.expect("the version is too narrow, and cannot be widened");
        // This account may. It alters the column, or the error says how to do it.
        match connect(db.url(), "owner").await {
            Err(error) => assert!(error.to_string().contains("version"), "{error}"),
            Ok(locks) => {
                let worked = tokio::time::timeout(SOON, works(&locks)).await;
                worked.expect("an answer").unwrap();
            }
        }
    });
}

#[test]
fn a_narrow_version_is_refused_on_mariadb() {
    a_narrow_version(Engine::MySql);
}

#[test]
fn a_narrow_version_is_refused_on_postgres() {
    a_narrow_version(Engine::Postgres);
}
