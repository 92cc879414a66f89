#[with_lock("app_task_<self.id>")]
fn update(&mut self, version: u32) -> Result<&mut Self, TaskError> {
    self.version = version;
    Ok(self)
}
