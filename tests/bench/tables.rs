//! Tables in Markdown: two versions compared, and each mechanism of the write schedule turned off.

use std::{
    env,
    fmt::{Result as Written, Write},
    fs,
    path::Path,
};

use clap::ValueEnum as _;

use crate::{
    Result,
    alternate::{self, Series, Variant},
    arguments::Arguments,
    engine::Engine,
    machine::Machine,
    report::short,
    statistics::median,
    switches::MECHANISMS,
};

/// A difference that counts: 5 %.
const TOLERANCE: f64 = 1.05;

/// Measures another build of this program (before) and this one (after) alternately.
pub(crate) fn comparison(arguments: &Arguments, before: &Path) -> Result<bool> {
    let variant = |name: &str, program: &Path| Variant {
        name: name.to_owned(),
        program: program.to_owned(),
        without: Vec::new(),
    };
    let after = env::current_exe()?;
    let variants = [variant("before", before), variant("after", &after)];
    print(arguments, &variants, "comparison.md", compared)
}

/// Measures with all mechanisms, and with each one turned off, alternately.
pub(crate) fn ablation(arguments: &Arguments) -> Result<bool> {
    let program = env::current_exe()?;
    let names = [None].into_iter().chain(MECHANISMS.map(Some));
    let variants: Vec<_> = names
        .map(|mechanism| Variant {
            name: mechanism.map_or("all on".into(), |name| format!("without {name}")),
            program: program.clone(),
            without: mechanism.into_iter().map(str::to_owned).collect(),
        })
        .collect();
    print(arguments, &variants, "ablation.md", ablated)
}

/// Measures the variants and prints the table. The file has the table of what is measured so far.
fn print(
    arguments: &Arguments,
    variants: &[Variant],
    file: &str,
    table: fn(&mut String, &[Series]) -> Written,
) -> Result<bool> {
    let directory = arguments.output();
    fs::create_dir_all(&directory)?;
    let text = |all: &[Series]| -> Result<String> {
        let mut text = String::new();
        let (machine, rounds) = (Machine::this(), arguments.repetitions());
        let kind = if arguments.quick { " quick" } else { "" };
        writeln!(text, "{machine}; medians of {rounds}{kind} rounds.\n")?;
        table(&mut text, all)?;
        Ok(text)
    };
    let (all, all_measured) = alternate::run(arguments, variants, |all| {
        fs::write(directory.join(file), text(all)?)?;
        Ok(())
    })?;
    println!("{}", text(&all)?.trim_end());
    Ok(all_measured)
}

fn compared(text: &mut String, all: &[Series]) -> Written {
    writeln!(
        text,
        "CPU is the time per operation of the processes that use the library, in µs.\n\n\
         | workload | engine | figure | before | after | after / before | CPU before | CPU after | |\n\
         |---|---|---|---|---|---|---|---|---|"
    )?;
    for series in all {
        let Series {
            workload,
            engine,
            what,
            unit,
            variants,
            ..
        } = series;
        let [before, after] = &variants[..] else {
            continue;
        };
        let cost = series.cost(1);
        let note = match cost {
            TOLERANCE.. => format!("**worse by {:.0} %**", (cost - 1.0) * 100.0),
            _ if cost.recip() >= TOLERANCE => {
                format!("better by {:.0} %", (cost.recip() - 1.0) * 100.0)
            }
            _ => String::new(),
        };
        writeln!(
            text,
            "| {workload} | {engine} | {what} | {} {unit} | {} {unit} | {} | {} | {} | {note} |",
            number(before.median()),
            number(after.median()),
            factor(after.ratio(before)),
            number(median(&before.cpu)),
            number(median(&after.cpu)),
        )?;
    }
    Ok(())
}

fn ablated(text: &mut String, all: &[Series]) -> Written {
    writeln!(
        text,
        "Each cell says how many times worse the figure is without the mechanism. Above 1, the \
         mechanism pays.\nThe second number is the ratio of the CPU time per operation.\n"
    )?;
    let engines = Engine::value_variants().iter().copied();
    let measured: Vec<_> = engines
        .filter(|engine| all.iter().any(|series| series.engine == *engine))
        .collect();
    for engine in &measured {
        let mechanisms = MECHANISMS.join(" | ");
        writeln!(text, "### {engine}\n")?;
        writeln!(
            text,
            "| workload | figure | all on | CPU in µs | {mechanisms} |"
        )?;
        writeln!(text, "|---|---|---|---|{}", "---|".repeat(MECHANISMS.len()))?;
        for series in all.iter().filter(|series| series.engine == *engine) {
            let Series {
                workload,
                what,
                unit,
                variants,
                ..
            } = series;
            let (value, cpu) = (variants[0].median(), median(&variants[0].cpu));
            write!(
                text,
                "| {workload} | {what} | {} {unit} | {} |",
                number(value),
                number(cpu)
            )?;
            for variant in 1..variants.len() {
                let (cost, cpu) = (series.cost(variant), series.cpu_ratio(variant));
                write!(text, " {}, {} |", factor(cost), factor(cpu))?;
            }
            writeln!(text)?;
        }
        writeln!(text)?;
    }
    summary(text, all, &measured)
}

/// The greatest gain of each mechanism. Only figures with a CPU time count: the others are
/// tails, memory and the like.
fn summary(text: &mut String, all: &[Series], engines: &[Engine]) -> Written {
    write!(
        text,
        "### The greatest gain of each mechanism\n\n| mechanism |"
    )?;
    for engine in engines {
        write!(text, " {engine} |")?;
    }
    writeln!(text, " |\n|---|{}---|", "---|".repeat(engines.len()))?;
    for (mechanism, variant) in MECHANISMS.iter().zip(1..) {
        write!(text, "| {mechanism} |")?;
        let mut greatest = None;
        for engine in engines {
            let own = all.iter().filter(|series| series.engine == *engine);
            let costs = own
                .filter(|series| series.variants[0].cpu.iter().all(|cpu| cpu.is_finite()))
                .map(|series| (series.cost(variant), series.workload))
                .filter(|(cost, _)| cost.is_finite());
            match costs.max_by(|a, b| a.0.total_cmp(&b.0)) {
                Some((cost, workload)) => {
                    greatest = Some(greatest.map_or(cost, |other: f64| other.max(cost)));
                    write!(text, " {} ({workload}) |", factor(cost))?;
                }
                None => write!(text, " – |")?,
            }
        }
        let note = match greatest {
            Some(cost) if cost < TOLERANCE => "less than 5 % everywhere",
            _ => "",
        };
        writeln!(text, " {note} |")?;
    }
    Ok(())
}

fn number(value: f64) -> String {
    finite(value, short)
}

fn factor(value: f64) -> String {
    finite(value, |value| format!("{value:.2}"))
}

fn finite(value: f64, format: impl Fn(f64) -> String) -> String {
    if value.is_finite() {
        format(value)
    } else {
        "–".into()
    }
}
