//! Random points of a grid: random search (Bergstra and Bengio 2012).
//!
//! The generator is Python's Mersenne Twister, in integers and products of doubles alone but for the logarithms, whose results
//! are rounded: a seed gives the same points on every machine. A larger sample of the same seed begins with the smaller one.

use std::collections::HashSet;

use super::super::node::Value;
use super::MOST_LISTED;
use super::axes::{Distribution, Law, Values};
use super::numbers;
use super::space::{Cell, Count, Space};
use crate::data::random::PythonRandom;

/// Draws made for each point wanted before there are taken to be too few.
const PATIENCE: usize = 100;

/// `wanted` different points in the order drawn; where fewer were found, how many.
pub(super) fn draw(space: &Space<'_>, wanted: usize, seed: u32, count: Count) -> Result<Vec<Vec<Cell>>, usize> {
    let mut random = PythonRandom::new(seed);
    if let Count::Exactly(all) = count
        && all <= MOST_LISTED
    {
        let mut points = space.points();
        // Fisher and Yates from the front: the first so many are the same however many are drawn.
        for place in 0..wanted.min(points.len()) {
            let other = place + random.randbelow((points.len() - place) as u64) as usize;
            points.swap(place, other);
        }
        points.truncate(wanted);
        return Ok(points);
    }
    let mut points = Vec::with_capacity(wanted);
    let mut seen = HashSet::with_capacity(wanted);
    for _ in 0..wanted.saturating_mul(PATIENCE) {
        let cells = point(space, &mut random);
        let identity: Vec<String> = cells.iter().map(identity).collect();
        if seen.insert(identity) {
            points.push(cells);
        }
        if points.len() == wanted {
            return Ok(points);
        }
    }
    Err(points.len())
}

fn identity(cell: &Cell) -> String {
    match cell {
        Cell::Absent => String::new(),
        Cell::At(value) => format!("#{value}"),
        Cell::Drawn(value) => value.show(),
    }
}

fn point(space: &Space<'_>, random: &mut PythonRandom) -> Vec<Cell> {
    let mut cells = vec![Cell::Absent; space.axes.len()];
    for &axis in space.order() {
        if space.applies(axis, &cells) {
            cells[axis] = match &space.axes[axis].values {
                Values::List(values) => Cell::At(random.randbelow(values.len() as u64) as u32),
                Values::Drawn(distribution) => Cell::Drawn(value(*distribution, random)),
            };
        }
    }
    cells
}

fn value(Distribution { law, from, to }: Distribution, random: &mut PythonRandom) -> Value {
    let drawn = match law {
        Law::Whole => {
            let steps = random.randbelow((to - from) as u64 + 1);
            return Value::Int(from as i64 + steps as i64);
        }
        Law::Uniform => from + (to - from) * random.random(),
        Law::LogUniform => from * (to / from).powf(random.random()),
    };
    Value::Float(numbers::rounded(drawn, numbers::digits_for(from, to)).clamp(from, to))
}
