//! The points of a grid: every combination of its axes' values, each once, however the axes depend on one another.

use std::fmt;

use super::super::node::{Node, Value};
use super::super::reader::Faults;
use super::axes::{Axis, Values, within};
use crate::data::suggest::did_you_mean;

/// A grid, its axes in an order in which what an axis depends on comes before it.
pub(super) struct Space<'a> {
    pub axes: &'a [Axis],
    order: Vec<usize>,
    /// By axis, what must hold for it to apply.
    conditions: Vec<Vec<Test>>,
}

/// What a point has on an axis.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Cell {
    /// The axis does not apply.
    Absent,
    /// A value of its list, by position.
    At(u32),
    /// A value drawn from its distribution.
    Drawn(Value),
}

/// How many points a grid has.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Count {
    Exactly(u64),
    /// At least so many.
    More(u64),
    /// Those of a distribution.
    Endless,
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exactly(count) => write!(f, "{count}"),
            Self::More(count) => write!(f, "over {count}"),
            Self::Endless => write!(f, "endless"),
        }
    }
}

/// A condition, resolved.
struct Test {
    /// The axis that it looks at, and the key inside that axis' values.
    axis: Option<(usize, String)>,
    /// The value where no axis gives one.
    otherwise: Option<String>,
    wanted: Vec<String>,
}

/// Points of axes that depend on each other which are counted one by one.
const MOST_COUNTED: u64 = 1_000_000;

/// Values of settings that a config need not write and that conditions name most.
const DEFAULTS: [(&str, &str); 3] = [("adapter.kind", "full"), ("objective", "asymmetric"), ("loss.name", "info_nce")];

impl<'a> Space<'a> {
    /// Resolves the axes' conditions; none where axes wait for each other.
    pub fn new(root: &Node, axes: &'a [Axis], faults: &Faults) -> Option<Self> {
        let conditions: Vec<Vec<Test>> = axes
            .iter()
            .enumerate()
            .map(|(number, axis)| {
                axis.when.iter().filter_map(|when| resolve(root, axes, number, when, faults)).collect()
            })
            .collect();
        let mut order: Vec<usize> = Vec::with_capacity(axes.len());
        while order.len() < axes.len() {
            let known = |test: &Test| test.axis.as_ref().is_none_or(|(axis, _)| order.contains(axis));
            let next = (0..axes.len()).find(|i| !order.contains(i) && conditions[*i].iter().all(known));
            let Some(next) = next else {
                if let Some(axis) = (0..axes.len()).find(|i| !order.contains(i)).map(|i| &axes[i]) {
                    faults.add(
                        &axis.origin,
                        format!(
                            "grid.{}.when: depends on an axis that depends on it: leave out one of the two",
                            axis.key
                        ),
                    );
                }
                return None;
            };
            order.push(next);
        }
        Some(Self { axes, order, conditions })
    }

    /// How many points there are.
    pub fn count(&self) -> Count {
        if self.axes.iter().any(|axis| matches!(axis.values, Values::Drawn(_))) {
            return Count::Endless;
        }
        let tested = |i: &usize| self.conditions.iter().flatten().any(|t| t.axis.as_ref().is_some_and(|(a, _)| a == i));
        let tests = |i: &usize| self.conditions[*i].iter().any(|test| test.axis.is_some());
        let (linked, free): (Vec<usize>, Vec<usize>) = self.order.iter().copied().partition(|i| tested(i) || tests(i));
        let mut count = 1u64;
        for axis in free {
            if self.applies(axis, &[]) {
                match count.checked_mul(self.axes[axis].values().len() as u64) {
                    Some(more) => count = more,
                    None => return Count::More(u64::MAX),
                }
            }
        }
        let mut of_linked = 0u64;
        self.walk(&linked, &mut |_| {
            of_linked += 1;
            of_linked < MOST_COUNTED
        });
        match count.checked_mul(of_linked) {
            Some(count) if of_linked < MOST_COUNTED => Count::Exactly(count),
            count => Count::More(count.unwrap_or(u64::MAX)),
        }
    }

    /// Every point, the first axis changing slowest.
    pub fn points(&self) -> Vec<Vec<Cell>> {
        let mut points = Vec::new();
        self.walk(&self.order, &mut |cells| {
            points.push(cells.to_vec());
            true
        });
        // Where an axis does not apply, the point stands where its first value would.
        let place = |cell: &Cell| if let Cell::At(value) = cell { *value } else { 0 };
        points.sort_by(|a, b| a.iter().map(place).cmp(b.iter().map(place)));
        points
    }

    /// Goes through the combinations of some axes, in which what an axis depends on comes before it, until told to stop.
    fn walk(&self, order: &[usize], visit: &mut impl FnMut(&[Cell]) -> bool) {
        let mut cells = vec![Cell::Absent; self.axes.len()];
        self.descend(order, &mut cells, visit);
    }

    fn descend(&self, order: &[usize], cells: &mut [Cell], visit: &mut impl FnMut(&[Cell]) -> bool) -> bool {
        let Some((&axis, rest)) = order.split_first() else { return visit(cells) };
        if !self.applies(axis, cells) {
            return self.descend(rest, cells, visit);
        }
        for value in 0..self.axes[axis].values().len() {
            cells[axis] = Cell::At(value as u32);
            if !self.descend(rest, cells, visit) {
                return false;
            }
        }
        cells[axis] = Cell::Absent;
        true
    }

    /// The axes in an order in which what one depends on comes before it.
    pub fn order(&self) -> &[usize] {
        &self.order
    }

    /// Whether an axis applies to a point of which the axes that it depends on are known.
    pub fn applies(&self, axis: usize, cells: &[Cell]) -> bool {
        self.conditions[axis].iter().all(|test| {
            let found = test.axis.as_ref().and_then(|(axis, inside)| match cells.get(*axis)? {
                Cell::At(value) => {
                    let node = self.axes[*axis].values().get(*value as usize)?;
                    let node = if inside.is_empty() { node } else { node.at(inside)? };
                    Some(node.value.show())
                }
                Cell::Drawn(value) => Some(value.show()),
                Cell::Absent => None,
            });
            found.or_else(|| test.otherwise.clone()).is_some_and(|value| test.wanted.contains(&value))
        })
    }

    /// What a point sets, in the config's order.
    pub fn settings(&self, cells: &[Cell]) -> Vec<(String, Node)> {
        let setting = |(axis, cell): (&Axis, &Cell)| {
            let node = match cell {
                Cell::Absent => return None,
                Cell::At(value) => axis.values().get(*value as usize)?.clone(),
                Cell::Drawn(value) => Node { value: value.clone(), origin: axis.origin.clone() },
            };
            Some((axis.key.clone(), node))
        };
        self.axes.iter().zip(cells).filter_map(setting).collect()
    }

    /// That every axis applies to a point.
    pub fn check_all_apply(&self, points: &[Vec<Cell>], faults: &Faults) {
        for (number, axis) in self.axes.iter().enumerate() {
            if !points.iter().any(|cells| cells.get(number).is_some_and(|cell| *cell != Cell::Absent)) {
                never(axis, axis.when.iter().any(|when| when.automatic), None, faults);
            }
        }
    }
}

fn never(axis: &Axis, automatic: bool, kind: Option<&str>, faults: &Faults) {
    let why = match (automatic, kind) {
        (true, None | Some("full")) => "adapter.kind is full; make it lora".to_string(),
        (true, Some(kind)) => format!("adapter.kind is {kind}; make it qlora"),
        (false, _) => "its `when` never holds".into(),
    };
    faults.add(&axis.origin, format!("grid.{}: applies to no trial: {why}", axis.key));
}

/// Finds what a condition looks at. Faults: a setting that nobody gives, a value that is never there.
fn resolve(root: &Node, axes: &[Axis], number: usize, when: &super::axes::Condition, faults: &Faults) -> Option<Test> {
    let axis = &axes[number];
    let fault = |message: String| faults.add(&when.origin, format!("grid.{}.when.{}{message}", axis.key, when.key));
    let target = axes.iter().enumerate().find_map(|(i, other)| {
        let inside = if other.key == when.key {
            Some("")
        } else {
            when.key.strip_prefix(&other.key).and_then(|rest| rest.strip_prefix('.'))
        };
        inside.map(|inside| (i, inside.to_string()))
    });
    let default = || DEFAULTS.iter().find(|(key, _)| *key == when.key).map(|(_, value)| (*value).to_string());
    let otherwise = match root.at(&when.key).map(|node| &node.value) {
        Some(Value::Null) => default().or_else(|| Some("null".into())),
        Some(value) => Some(value.show()),
        None => default(),
    };
    let wanted = when.values.clone();
    match &target {
        Some((other, _)) if *other == number => {
            fault(": an axis cannot depend on itself".into());
            return None;
        }
        Some((other, inside)) => match &axes[*other].values {
            Values::Drawn(_) => {
                fault(": is drawn from a distribution, which has no values to name".into());
                return None;
            }
            Values::List(values) if inside.is_empty() => {
                let mut known: Vec<String> = values.iter().map(|value| value.value.show()).collect();
                known.extend(otherwise.clone().filter(|_| !axes[*other].when.is_empty()));
                if when.automatic && !wanted.iter().any(|value| known.contains(value)) {
                    never(axis, true, known.first().map(String::as_str), faults);
                    return None;
                }
                if let Some(value) = wanted.iter().find(|value| !when.automatic && !known.contains(value)) {
                    let hint = did_you_mean(value, known.iter().map(String::as_str));
                    fault(format!(" = {value}: no trial has this; there are {}{hint}", known.join(", ")));
                }
            }
            Values::List(_) => {}
        },
        None if otherwise.is_none() => {
            let nested = axes.iter().any(|other| within(&when.key, &other.key));
            let known: Vec<&str> = axes.iter().map(|other| other.key.as_str()).collect();
            let hint = did_you_mean(&when.key, known);
            fault(if nested {
                ": is a section; name a setting in it".into()
            } else {
                format!(": is neither an axis nor set in this config: set it, so that its value is known{hint}")
            });
            return None;
        }
        None => {
            let value = otherwise.as_deref().unwrap_or_default();
            if !wanted.iter().any(|wanted| wanted == value) {
                never(axis, when.automatic, Some(value), faults);
                return None;
            }
        }
    }
    Some(Test { axis: target, otherwise, wanted })
}

#[cfg(test)]
mod tests {
    use super::super::super::node::{Origin, parse};
    use super::super::axes;
    use super::*;

    fn count(grid: &str) -> Count {
        let root = parse(&format!("grid:\n  {}\n", grid.replace("; ", "\n  "))).unwrap();
        let faults = Faults::new("c.yaml");
        let axes = axes::read(&root, &faults);
        let space = Space::new(&root, &axes, &faults).unwrap();
        let count = space.count();
        if let Count::Exactly(count) = count {
            assert_eq!(space.points().len() as u64, count);
        }
        faults.finish(count).unwrap()
    }

    #[test]
    fn points_are_counted_as_they_are_listed() {
        assert_eq!(count("a.x: [1, 2]; a.y: [1, 2, 3]"), Count::Exactly(6));
        assert_eq!(count("adapter.kind: [full, lora, qlora]; adapter.rank: [4, 8]"), Count::Exactly(1 + 2 + 2));
        assert_eq!(
            count(
                "adapter.rank: [4, 8]; adapter.kind: [full, lora, qlora]; adapter.quantization: [nf4, int8]; a.x: [1, 2]"
            ),
            Count::Exactly(2 * (1 + 2 + 4))
        );
        assert_eq!(count("a.x: {uniform: [0, 1]}"), Count::Endless);
    }

    #[test]
    fn huge_grids_are_counted_without_being_listed() {
        let axes: Vec<String> = (0..12).map(|i| format!("a.x{i}: {{from: 1, to: 100, step: 1}}")).collect();
        let root = parse(&format!("grid:\n  {}\n", axes.join("\n  "))).unwrap();
        let faults = Faults::new("c.yaml");
        let axes = axes::read(&root, &faults);
        assert_eq!(Space::new(&root, &axes, &faults).unwrap().count(), Count::More(u64::MAX));
    }

    #[test]
    fn axes_that_wait_for_each_other_are_a_fault() {
        let text = "grid:\n  a.x: {values: [1], when: {a.y: 1}}\n  a.y: {values: [1], when: {a.x: 1}}\n";
        let root = parse(text).unwrap();
        let faults = Faults::new("c.yaml");
        let axes = axes::read(&root, &faults);
        assert!(Space::new(&root, &axes, &faults).is_none());
        let errors = faults.finish(()).unwrap_err().to_string();
        assert_eq!(errors, "c.yaml:2: grid.a.x.when: depends on an axis that depends on it: leave out one of the two");
    }

    #[test]
    fn origins_of_values_are_those_of_their_axis() {
        let root = parse("grid:\n  a.x: {from: 1, to: 3, count: 3}\n").unwrap();
        let faults = Faults::new("c.yaml");
        let axes = axes::read(&root, &faults);
        let space = Space::new(&root, &axes, &faults).unwrap();
        let expected = Node { value: Value::Int(2), origin: Origin::Line(2) };
        assert_eq!(space.settings(&[Cell::At(1)]), [("a.x".to_string(), expected)]);
    }
}
