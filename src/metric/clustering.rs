//! Agreement of a clustering with gold labels: V-measure (Rosenberg and Hirschberg 2007) and adjusted mutual information
//! (Vinh, Epps and Bailey 2010), in natural logarithms.

/// V-measure and its two parts, all in [0, 1].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct VMeasure {
    /// MI / H(gold), 1 where the gold labels have no entropy.
    pub homogeneity: f64,
    /// MI / H(clusters), 1 where the clusters have no entropy.
    pub completeness: f64,
    /// Their harmonic mean, 0 where both are 0.
    pub v_measure: f64,
}

/// V-measure of cluster numbers against gold class numbers; all 1 for empty lists.
pub fn v_measure(gold: &[usize], clusters: &[usize]) -> VMeasure {
    let table = Contingency::new(gold, clusters);
    let information = table.mutual_information();
    let part = |entropy: f64| if entropy == 0.0 { 1.0 } else { information / entropy };
    let homogeneity = part(table.entropy(&table.gold));
    let completeness = part(table.entropy(&table.clusters));
    let sum = homogeneity + completeness;
    let v_measure = if sum == 0.0 { 0.0 } else { 2.0 * homogeneity * completeness / sum };
    VMeasure { homogeneity, completeness, v_measure }
}

/// (MI − E\[MI\]) / ((H(gold) + H(clusters))/2 − E\[MI\]), the expectation under the hypergeometric model of random labellings
/// with the same cluster sizes; 1 where both lists have a single value or are empty.
pub fn adjusted_mutual_information(gold: &[usize], clusters: &[usize]) -> f64 {
    let table = Contingency::new(gold, clusters);
    if table.gold.len() == table.clusters.len() && table.gold.len() <= 1 {
        return 1.0;
    }
    let expected = table.expected_mutual_information();
    let mean_entropy = (table.entropy(&table.gold) + table.entropy(&table.clusters)) / 2.0;
    let denominator = mean_entropy - expected;
    let denominator = if denominator < 0.0 { denominator.min(-f64::EPSILON) } else { denominator.max(f64::EPSILON) };
    (table.mutual_information() - expected) / denominator
}

/// How often every pair of class and cluster occurs, without empty classes and clusters.
struct Contingency {
    rows: usize,
    gold: Vec<usize>,
    clusters: Vec<usize>,
    /// `[gold, clusters]`, row-major.
    cells: Vec<usize>,
}

impl Contingency {
    fn new(gold: &[usize], clusters: &[usize]) -> Self {
        let rows = gold.len().min(clusters.len());
        let (gold, gold_count) = renumber(&gold[..rows]);
        let (clusters, cluster_count) = renumber(&clusters[..rows]);
        let mut cells = vec![0; gold_count * cluster_count];
        let (mut gold_sizes, mut cluster_sizes) = (vec![0; gold_count], vec![0; cluster_count]);
        for (&class, &cluster) in gold.iter().zip(&clusters) {
            cells[class * cluster_count + cluster] += 1;
            gold_sizes[class] += 1;
            cluster_sizes[cluster] += 1;
        }
        Self { rows, gold: gold_sizes, clusters: cluster_sizes, cells }
    }

    fn entropy(&self, sizes: &[usize]) -> f64 {
        if sizes.len() <= 1 {
            return 0.0;
        }
        let total = self.rows as f64;
        -sizes.iter().map(|&size| size as f64 / total * ((size as f64).ln() - total.ln())).sum::<f64>()
    }

    fn mutual_information(&self) -> f64 {
        if self.gold.len() <= 1 || self.clusters.len() <= 1 {
            return 0.0;
        }
        let total = self.rows as f64;
        let mut information = 0.0;
        for (class, row) in self.gold.iter().zip(self.cells.chunks_exact(self.clusters.len())) {
            for (&cell, cluster) in row.iter().zip(&self.clusters).filter(|(cell, _)| **cell > 0) {
                let independent = (*class as f64).ln() + (*cluster as f64).ln();
                information += cell as f64 / total * ((cell as f64).ln() + total.ln() - independent);
            }
        }
        information.max(0.0)
    }

    fn expected_mutual_information(&self) -> f64 {
        let (total, rows) = (self.rows as f64, self.rows);
        let ln_factorial = ln_factorials(rows);
        let mut expected = 0.0;
        for &a in &self.gold {
            for &b in &self.clusters {
                let fixed = ln_factorial[a] + ln_factorial[b] + ln_factorial[rows - a] + ln_factorial[rows - b]
                    - ln_factorial[rows];
                let ln_product = (a as f64).ln() + (b as f64).ln();
                for n in (a + b).saturating_sub(rows).max(1)..=a.min(b) {
                    let probability = (fixed
                        - ln_factorial[n]
                        - ln_factorial[a - n]
                        - ln_factorial[b - n]
                        - ln_factorial[rows + n - a - b])
                        .exp();
                    let n = n as f64;
                    expected += n / total * (total.ln() + n.ln() - ln_product) * probability;
                }
            }
        }
        expected
    }
}

/// The values replaced by 0, 1, … in order of appearance, and how many there are.
fn renumber(values: &[usize]) -> (Vec<usize>, usize) {
    let mut numbers = std::collections::HashMap::new();
    let renumbered = values
        .iter()
        .map(|value| {
            let next = numbers.len();
            *numbers.entry(*value).or_insert(next)
        })
        .collect();
    (renumbered, numbers.len())
}

/// ln 0!, ln 1!, …, ln n!, summed with compensation so that the error does not grow with n.
fn ln_factorials(n: usize) -> Vec<f64> {
    let mut values = Vec::with_capacity(n + 1);
    values.push(0.0);
    let (mut sum, mut lost) = (0.0f64, 0.0f64);
    for i in 1..=n {
        let term = (i as f64).ln() - lost;
        let next = sum + term;
        lost = (next - sum) - term;
        sum = next;
        values.push(sum);
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edge_cases() {
        let same = VMeasure { homogeneity: 1.0, completeness: 1.0, v_measure: 1.0 };
        assert_eq!(v_measure(&[], &[]), same);
        assert_eq!(v_measure(&[7, 7], &[3, 3]), same);
        assert_eq!(v_measure(&[0, 1], &[5, 5]).v_measure, 0.0);
        assert_eq!(adjusted_mutual_information(&[], &[]), 1.0);
        assert_eq!(adjusted_mutual_information(&[1, 1], &[0, 0]), 1.0);
        assert_eq!(adjusted_mutual_information(&[0, 1], &[0, 0]), 0.0);
    }

    #[test]
    fn the_names_of_classes_and_clusters_do_not_matter() {
        let gold = [0, 0, 1, 1, 2, 2, 2, 0];
        let first = [0, 0, 1, 2, 2, 2, 1, 0];
        let renamed = first.map(|cluster| [90, 4, 17][cluster]);
        assert!((v_measure(&gold, &first).v_measure - v_measure(&gold, &renamed).v_measure).abs() < 1e-15);
        let ami = adjusted_mutual_information;
        assert!((ami(&gold, &first) - ami(&gold, &renamed)).abs() < 1e-14);
    }
}
