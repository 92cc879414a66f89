fn update(&mut self, version: u32) -> Result<&mut Self, TaskError> {
    use ::locks_core::__private as __locks_private;
    let __locks_errors = __locks_private::from_lock_error::<
        Result<&mut Self, TaskError>,
        _,
    >();
    let __locks_call = __locks_private::Call::new([
        __locks_private::name(
            &[
                __locks_private::text("app_task_"),
                __locks_private::value("<self.id>", &self.id),
            ],
        ),
    ]);
    let __locks_locked_call = match __locks_private::lock_blocking(__locks_call) {
        ::core::result::Result::Ok(__locks_locked_call) => __locks_locked_call,
        ::core::result::Result::Err(__locks_error) => {
            return __locks_errors.convert(__locks_error);
        }
    };
    let __locks_value = __locks_private::run_blocking(
        &__locks_locked_call,
        move || -> Result<&mut Self, TaskError> {
            __locks_private::move_into_body(&self);
            #[allow(
                clippy::no_effect_underscore_binding,
                clippy::redundant_locals,
                clippy::shadow_same,
                clippy::used_underscore_binding
            )]
            let version = version;
            #[allow(unused_braces, clippy::diverging_sub_expression)]
            let __locks_value: Result<&mut Self, TaskError> = {
                self.version = version;
                Ok(self)
            };
            #[allow(unreachable_code)] __locks_value
        },
    );
    __locks_private::unlock_blocking(__locks_locked_call, __locks_errors, __locks_value)
}
