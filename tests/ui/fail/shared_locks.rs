use locks_core::{ConflictMatrix, LockError, with_lock};

const MATRIX: ConflictMatrix = ConflictMatrix::new(&[("platform", &[])]);

#[with_lock("app", shared, shared(), shared = "platform")]
async fn without_templates() -> Result<(), LockError> {
    Ok(())
}

#[with_lock("app", shared(platform), shared(shared("platform")), shared("a" "b"))]
async fn not_templates() -> Result<(), LockError> {
    Ok(())
}

#[with_lock("platform", shared("platform"))]
async fn in_both_modes() -> Result<(), LockError> {
    Ok(())
}

#[with_lock(shared("plattform"), matrix = MATRIX)]
async fn misspelt() -> Result<(), LockError> {
    Ok(())
}

#[with_lock(shared("app_<app>"))]
async fn unknown(app_id: u32) -> Result<u32, LockError> {
    Ok(app_id)
}

#[with_lock(wait)]
async fn without_a_name() -> Result<(), LockError> {
    Ok(())
}

fn main() {}
