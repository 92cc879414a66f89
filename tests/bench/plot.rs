//! The plot: throughput over the number of tasks and processes, for all contenders.

use std::{ops::Range, path::Path};

use clap::ValueEnum as _;
use plotters::{
    coord::Shift,
    prelude::{
        ChartBuilder, DrawingArea, IntoDrawingArea as _, IntoLogRange as _, LineSeries,
        PathElement, RGBColor, SVGBackend, WHITE,
    },
    style::{
        Color as _,
        text_anchor::{HPos, Pos, VPos},
    },
};

use crate::{
    Result,
    contenders::Contender,
    engine::Engine,
    report::{Point, Report},
    workloads::Workload,
};

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// The size of one chart, and the height of the caption.
const CHART: (u32, u32) = (490, 300);
const CAPTION: u32 = 40;
const FONT: &str = "sans-serif";

/// Draws a chart for each workload and engine with more than one size. Writes no file if there
/// are none.
pub(crate) fn draw(report: &Report, directory: &Path) -> Result<()> {
    let shown = |workload: Workload, engine: Engine| {
        let points = report.points.iter();
        let mut sizes: Vec<_> = points
            .filter(|point| point.workload == workload && point.engine == engine)
            .map(|point| point.at_once)
            .collect();
        sizes.sort_unstable();
        sizes.dedup();
        sizes.len() > 1
    };
    let workloads = [Workload::W3, Workload::W4];
    let engines: Vec<_> = Engine::value_variants()
        .iter()
        .copied()
        .filter(|engine| workloads.iter().any(|workload| shown(*workload, *engine)))
        .collect();
    if engines.is_empty() {
        return Ok(());
    }
    let path = directory.join("peers.svg");
    let height = CAPTION + CHART.1 * u32::try_from(engines.len())?;
    let root = SVGBackend::new(&path, (CHART.0 * 2, height)).into_drawing_area();
    root.fill(&WHITE)?;
    let caption = format!(
        "Pairs of acquire and release per second · {}",
        report.machine
    );
    let root = root.titled(&caption, (FONT, 18))?;
    let charts = root.split_evenly((engines.len(), workloads.len()));
    let kinds = engines
        .iter()
        .flat_map(|engine| workloads.map(|workload| (workload, *engine)));
    for (area, (workload, engine)) in charts.iter().zip(kinds) {
        if shown(workload, engine) {
            chart(area, workload, engine, report)?;
        }
    }
    root.present()?;
    Ok(())
}

fn chart(area: &Area<'_>, workload: Workload, engine: Engine, report: &Report) -> Result<()> {
    let points = report.points.iter();
    let points: Vec<_> = points
        .filter(|point| point.workload == workload && point.engine == engine)
        .collect();
    let what = match workload {
        Workload::W3 => "tasks of one process",
        _ => "processes",
    };
    let rates = points.iter().map(|point| point.pairs_per_second);
    let rates = range(rates.filter(|rate| *rate > 0.0));
    let mut chart = ChartBuilder::on(area)
        .caption(format!("{engine}, {what}"), (FONT, 15))
        .margin(8)
        .margin_right(160)
        .x_label_area_size(24)
        .y_label_area_size(56)
        .build_cartesian_2d((0.8..64.0_f64).log_scale().base(2.0), rates.log_scale())?;
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .x_labels(7)
        .y_labels(6)
        .x_label_formatter(&|at_once| format!("{at_once:.0}"))
        .y_label_formatter(&|rate| format!("{rate:.0}"))
        .draw()?;
    for (place, contender) in Contender::on(engine).into_iter().enumerate() {
        let mut line: Vec<_> = of(&points, contender).collect();
        line.sort_by(|a, b| a.0.total_cmp(&b.0));
        let color = color(contender);
        let width = if contender.is_ours() { 3 } else { 1 };
        chart.draw_series(LineSeries::new(line, color.stroke_width(width)).point_size(2))?;
        legend(area, place, contender.name(engine), color)?;
    }
    Ok(())
}

fn of(points: &[&Point], contender: Contender) -> impl Iterator<Item = (f64, f64)> {
    let own = points
        .iter()
        .filter(move |point| point.contender == contender);
    #[expect(clippy::cast_precision_loss, reason = "a handful of tasks")]
    own.map(|point| (point.at_once as f64, point.pairs_per_second))
}

/// From below the least value to above the greatest.
fn range(values: impl Iterator<Item = f64>) -> Range<f64> {
    let (least, most) = values.fold((f64::MAX, 1.0_f64), |(least, most), value| {
        (least.min(value), most.max(value))
    });
    (least / 1.5).min(most)..most * 1.5
}

/// Adds the name of a line to the right of the chart.
fn legend(area: &Area<'_>, place: usize, name: &str, color: RGBColor) -> Result<()> {
    let (width, _) = area.dim_in_pixel();
    let (x, y) = (i32::try_from(width)? - 155, 50 + 20 * i32::try_from(place)?);
    area.draw(&PathElement::new(
        [(x, y), (x + 14, y)],
        color.stroke_width(3),
    ))?;
    let style =
        plotters::style::TextStyle::from((FONT, 11)).pos(Pos::new(HPos::Left, VPos::Center));
    area.draw_text(name, &style, (x + 18, y))?;
    Ok(())
}

/// Colours that colour-blind readers can tell apart (Okabe and Ito).
fn color(contender: Contender) -> RGBColor {
    match contender {
        Contender::Ours => RGBColor(213, 94, 0),
        Contender::OursDropped => RGBColor(230, 159, 0),
        Contender::Original => RGBColor(0, 0, 0),
        Contender::Retry => RGBColor(86, 180, 233),
        Contender::RowPerLock => RGBColor(0, 158, 115),
        Contender::ServerLock => RGBColor(0, 114, 178),
        Contender::Redis => RGBColor(204, 121, 167),
    }
}
