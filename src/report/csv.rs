//! The numbers behind the report, as CSV.

use crate::store::record::{RunRecord, VariantKind};

/// (file name, content).
pub fn tables(run: &RunRecord) -> Vec<(&'static str, String)> {
    let mut scores = String::from("variant,split,task,type,metric,rows,main_score,seed_mean\n");
    let mut settings = String::from("variant,kind,alpha,step,setting,value\n");
    for variant in &run.variants {
        for (split, tasks) in [("dev", &variant.dev), ("test", &variant.test)] {
            for t in tasks {
                scores.push_str(&format!(
                    "{},{split},{},{},{},{},{:.6},{:.6}\n",
                    quote(&variant.label),
                    quote(&t.name),
                    t.task_type,
                    t.metric,
                    t.rows,
                    t.main_score,
                    t.mean_over_seeds()
                ));
            }
        }
        let (kind, alpha, step) = match &variant.kind {
            VariantKind::Base => ("base", String::new(), String::new()),
            VariantKind::Trained { step, .. } => ("trained", String::new(), step.to_string()),
            VariantKind::Averaged { .. } => ("averaged", String::new(), String::new()),
            VariantKind::Merged { alpha, .. } => ("merged", format!("{alpha:.6}"), String::new()),
        };
        for (key, value) in variant.settings.iter().chain(&run.settings) {
            settings.push_str(&format!(
                "{},{kind},{alpha},{step},{},{}\n",
                quote(&variant.label),
                quote(key),
                quote(value)
            ));
        }
    }
    let mut alpha = String::from("first,second,alpha,dev_score,low,high,chosen\n");
    for search in &run.searches {
        for p in &search.points {
            alpha.push_str(&format!(
                "{},{},{:.6},{:.6},{:.6},{:.6},{}\n",
                quote(&search.first),
                quote(&search.second),
                p.alpha,
                p.score,
                p.interval.0,
                p.interval.1,
                u8::from(p.alpha == search.chosen)
            ));
        }
    }
    let mut losses = String::from("trial,step,series,value\n");
    for curve in &run.curves {
        for (series, points) in
            [("train_loss", &curve.train_loss), ("dev_loss", &curve.dev_loss), ("dev_mrr", &curve.dev_score)]
        {
            for (step, value) in points {
                losses.push_str(&format!("{},{step},{series},{value:.6}\n", quote(&curve.trial)));
            }
        }
    }
    vec![("scores.csv", scores), ("settings.csv", settings), ("alpha.csv", alpha), ("losses.csv", losses)]
}

fn quote(text: &str) -> String {
    if text.contains([',', '"', '\n']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.to_string() }
}
