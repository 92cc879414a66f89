//! The arguments of `#[with_lock(…)]`: templates and options.

use std::time::Duration;

use proc_macro2::{Ident, Span, TokenStream};
use syn::{
    Expr, ExprPath, Lit, LitStr, Path, Token,
    ext::IdentExt,
    parenthesized,
    parse::{Parse, ParseStream, Parser},
    token,
};

use crate::{mistakes::Mistakes, template::Template};

/// Every option and its syntax.
const OPTIONS: [(&str, &str); 11] = [
    ("shared", "`shared(\"platform\")`"),
    ("wait", "`wait` or `wait = \"30s\"`"),
    ("acquire", "`acquire`"),
    ("max_hold", "`max_hold = \"10m\"`"),
    ("busy", "`busy = EXPR`"),
    ("locks", "`locks = EXPR`"),
    ("guard", "`guard = NAME`"),
    (
        "on_lost",
        "`on_lost = \"cancel\"` or `on_lost = \"continue\"`",
    ),
    ("matrix", "`matrix = PATH`"),
    ("map_err", "`map_err = PATH`"),
    ("crate", "`crate = PATH`"),
];

/// The templates and options of one use of the attribute.
#[derive(Default)]
pub(crate) struct Args {
    /// The valid templates.
    pub(crate) templates: Vec<Template>,
    /// Whether an argument is a template or may have been meant as one.
    pub(crate) names_a_lock: bool,
    pub(crate) wait_policy: Option<Given<WaitPolicy>>,
    pub(crate) max_hold: Option<Given<Duration>>,
    pub(crate) busy: Option<Given<Expr>>,
    pub(crate) locks: Option<Given<Expr>>,
    pub(crate) guard: Option<Given<Ident>>,
    pub(crate) on_lost: Option<Given<OnLost>>,
    pub(crate) matrix: Option<Given<ExprPath>>,
    pub(crate) map_err: Option<Given<ExprPath>>,
    pub(crate) krate: Option<Given<Path>>,
    /// The names of all options that occur, including those with an invalid value. Mistakes
    /// that only follow from an invalid value are not reported.
    seen: Vec<String>,
}

/// The value of an option, and the position at which a mistake in it is reported.
pub(crate) struct Given<T> {
    pub(crate) at: Span,
    pub(crate) value: T,
}

/// How long a call waits for its locks.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum WaitPolicy {
    NoWait,
    /// Waits without end where there is no timeout.
    Wait {
        timeout: Option<Duration>,
    },
}

/// What happens to the body when its lock is lost.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnLost {
    Cancel,
    Continue,
}

impl Args {
    /// Parses all arguments. Invalid ones are added to `mistakes`.
    pub(crate) fn parse(tokens: TokenStream, mistakes: &mut Mistakes) -> Self {
        let mut args = Self::default();
        let all = |input: ParseStream<'_>| {
            while !input.is_empty() {
                if let Err(error) = args.argument(input, mistakes) {
                    mistakes.push(error);
                    skip_to_comma(input)?;
                }
                if !input.is_empty() {
                    input.parse::<Token![,]>()?;
                }
            }
            Ok(())
        };
        if let Err(error) = all.parse2(tokens) {
            mistakes.push(error);
        }
        args
    }

    /// Whether `option` occurs, with a valid or an invalid value.
    pub(crate) fn has_seen(&self, option: &str) -> bool {
        self.seen.iter().any(|seen| seen == option)
    }

    fn argument(&mut self, input: ParseStream<'_>, mistakes: &mut Mistakes) -> syn::Result<()> {
        if input.peek(Lit) {
            self.names_a_lock = true;
            return self.template(input, false, mistakes);
        }
        let at = input.span();
        let Ok(name) = input.call(Ident::parse_any) else {
            return Err(syn::Error::new(
                at,
                format!("expected a template in quotes or an option: {}", options()),
            ));
        };
        if name == "shared" {
            self.names_a_lock = true;
            return self.shared(&name, input, mistakes);
        }
        self.option(&name, input)
    }

    /// Parses the templates of shared locks. They may occur repeatedly.
    fn shared(
        &mut self,
        name: &Ident,
        input: ParseStream<'_>,
        mistakes: &mut Mistakes,
    ) -> syn::Result<()> {
        let misused = |at| syn::Error::new(at, "write `shared(\"platform\")`");
        if !input.peek(token::Paren) {
            return Err(misused(name.span()));
        }
        let templates;
        let parens = parenthesized!(templates in input);
        if templates.is_empty() {
            return Err(misused(parens.span.join()));
        }
        while !templates.is_empty() {
            let parsed = if templates.peek(Lit) {
                self.template(&templates, true, mistakes)
            } else {
                Err(misused(templates.span()))
            };
            if let Err(mistake) = parsed {
                mistakes.push(mistake);
                skip_to_comma(&templates)?;
            }
            if !templates.is_empty() {
                templates.parse::<Token![,]>()?;
            }
        }
        at_end(input, input.span(), "expected `,` after `shared(…)`")
    }

    fn template(
        &mut self,
        input: ParseStream<'_>,
        shared: bool,
        mistakes: &mut Mistakes,
    ) -> syn::Result<()> {
        let literal: Lit = input.parse()?;
        let Lit::Str(literal) = literal else {
            return Err(syn::Error::new(
                literal.span(),
                "a template is a string: write it in double quotes",
            ));
        };
        at_end(input, input.span(), "expected `,` after the template")?;
        self.templates
            .extend(Template::parse(literal, shared, mistakes));
        Ok(())
    }

    fn option(&mut self, name: &Ident, input: ParseStream<'_>) -> syn::Result<()> {
        let key = name.to_string();
        let Some((_, usage)) = OPTIONS.iter().find(|(option, _)| *option == key) else {
            // It may have been meant as a template.
            self.names_a_lock = true;
            return Err(unknown(name, input));
        };
        if self.has_seen(&key) {
            return Err(syn::Error::new(
                name.span(),
                format!("`{key}` is given twice"),
            ));
        }
        self.seen.push(key.clone());
        let option = OptionSyntax { name, usage };
        match key.as_str() {
            "wait" | "acquire" => {
                let policy = option.wait_policy(input)?;
                if self.has_seen("wait") && self.has_seen("acquire") {
                    return Err(syn::Error::new(
                        name.span(),
                        "`wait` and `acquire` contradict each other: keep `wait` to wait for \
                         the lock, or `acquire` to fail at once if it is not available",
                    ));
                }
                self.wait_policy = Some(option.given(policy));
            }
            "max_hold" => {
                let zero = "the duration is zero: the lock would be lost at once";
                self.max_hold = Some(option.given(option.duration(input, zero)?));
            }
            "busy" => self.busy = Some(option.given(option.value(input)?)),
            "locks" => self.locks = Some(option.given(option.value(input)?)),
            "guard" => self.guard = Some(option.given(option.value(input)?)),
            "on_lost" => self.on_lost = Some(option.on_lost(input)?),
            "matrix" => self.matrix = Some(option.given(option.value(input)?)),
            "map_err" => self.map_err = Some(option.given(option.value(input)?)),
            _ => {
                let path: ModPath = option.value(input)?;
                self.krate = Some(option.given(path.0));
            }
        }
        Ok(())
    }
}

/// The name of an option in the input, and its syntax.
struct OptionSyntax<'a> {
    name: &'a Ident,
    usage: &'static str,
}

impl OptionSyntax<'_> {
    fn given<T>(&self, value: T) -> Given<T> {
        Given {
            at: self.name.span(),
            value,
        }
    }

    fn misused(&self, at: Span) -> syn::Error {
        syn::Error::new(at, format!("write {}", self.usage))
    }

    /// Parses `=` and the value, up to the next comma.
    fn value<T: Parse>(&self, input: ParseStream<'_>) -> syn::Result<T> {
        if !input.peek(Token![=]) {
            return Err(self.misused(self.name.span()));
        }
        input.parse::<Token![=]>()?;
        if is_at_end(input) {
            return Err(self.misused(self.name.span()));
        }
        let at = input.span();
        let value = input.parse().map_err(|_| self.misused(at))?;
        at_end(input, at, &format!("write {}", self.usage))?;
        Ok(value)
    }

    fn wait_policy(&self, input: ParseStream<'_>) -> syn::Result<WaitPolicy> {
        if is_at_end(input) {
            return Ok(if self.name == "wait" {
                WaitPolicy::Wait { timeout: None }
            } else {
                WaitPolicy::NoWait
            });
        }
        if self.name == "acquire" {
            return Err(syn::Error::new(
                self.name.span(),
                "`acquire` has no value, because it does not wait: \
                 write `wait = \"30s\"` to wait for at most 30 seconds",
            ));
        }
        let zero = "the duration is zero: write `acquire` to fail at once";
        let timeout = Some(self.duration(input, zero)?);
        Ok(WaitPolicy::Wait { timeout })
    }

    /// Parses a duration. `zero` is the message of the mistake that it is zero.
    fn duration(&self, input: ParseStream<'_>, zero: &str) -> syn::Result<Duration> {
        let limit: LitStr = self.value(input)?;
        let text = limit.value();
        let invalid = |reason: &str| {
            syn::Error::new(
                limit.span(),
                format!(
                    "{text:?} is not a duration{reason}: write a number and a unit, \
                     such as \"500ms\", \"30s\" or \"2m\""
                ),
            )
        };
        match humantime::parse_duration(&text) {
            Ok(Duration::ZERO) => Err(syn::Error::new(limit.span(), zero)),
            Ok(limit) => Ok(limit),
            Err(humantime::DurationError::Empty) => Err(invalid("")),
            Err(error) => Err(invalid(&format!(" ({error})"))),
        }
    }

    fn on_lost(&self, input: ParseStream<'_>) -> syn::Result<Given<OnLost>> {
        let word: LitStr = self.value(input)?;
        let value = match word.value().as_str() {
            "cancel" => OnLost::Cancel,
            "continue" => OnLost::Continue,
            _ => return Err(self.misused(word.span())),
        };
        Ok(Given {
            at: word.span(),
            value,
        })
    }
}

/// A path as in `use`. Unlike other paths it may be `crate` alone.
struct ModPath(Path);

impl Parse for ModPath {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        input.call(Path::parse_mod_style).map(Self)
    }
}

fn unknown(name: &Ident, input: ParseStream<'_>) -> syn::Error {
    let hint = if name == "timeout" {
        "; a limit of the wait is `wait = …`"
    } else if input.peek(Token![=]) || is_at_end(input) {
        ""
    } else {
        "; a template is a string in double quotes, not an expression"
    };
    syn::Error::new(
        name.span(),
        format!(
            "unknown option `{name}`: the options are {}{hint}",
            options()
        ),
    )
}

fn options() -> String {
    let names: Vec<_> = OPTIONS
        .iter()
        .map(|(name, _)| format!("`{name}`"))
        .collect();
    names.join(", ")
}

fn is_at_end(input: ParseStream<'_>) -> bool {
    input.is_empty() || input.peek(Token![,])
}

fn at_end(input: ParseStream<'_>, at: Span, message: &str) -> syn::Result<()> {
    if is_at_end(input) {
        Ok(())
    } else {
        Err(syn::Error::new(at, message))
    }
}

fn skip_to_comma(input: ParseStream<'_>) -> syn::Result<()> {
    while !is_at_end(input) {
        input.parse::<proc_macro2::TokenTree>()?;
    }
    Ok(())
}
