fn update(&mut self, version: u32) -> Result<&mut Self, TaskError> {
    use ::locks_core::__private as __locks_private;
    let __locks_returns = __locks_private::returns::<Result<&mut Self, TaskError>, _>();
    let __locks_call = __locks_private::Call::new([
        __locks_private::name(
            &[
                __locks_private::text("app_task_"),
                __locks_private::value("<self.id>", &self.id),
            ],
        ),
    ]);
    let __locks_held = match __locks_private::enter_blocking(__locks_call) {
        ::core::result::Result::Ok(__locks_held) => __locks_held,
        ::core::result::Result::Err(__locks_error) => {
            return __locks_returns.fail(__locks_error);
        }
    };
    let __locks_value = __locks_private::run_blocking(
        &__locks_held,
        move || -> Result<&mut Self, TaskError> {
            __locks_private::mention(&self);
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
    __locks_private::leave_blocking(__locks_held, __locks_returns, __locks_value)
}
