//! The numbers behind the report, as CSV.

use super::scores::Scores;
use crate::store::record::{RunRecord, Variant, VariantKind};
use crate::store::results::kind;

/// (file name, content). Intervals in `scores.csv` are those of `main_score`.
pub fn tables(run: &RunRecord, scores: &Scores) -> Vec<(&'static str, String)> {
    vec![
        ("scores.csv", scores_table(run, scores)),
        ("variants.csv", variants_table(run)),
        ("settings.csv", settings_table(run)),
        ("alpha.csv", alpha_table(run)),
        ("losses.csv", losses_table(run)),
        ("unfinished.csv", unfinished_table(run)),
    ]
}

fn scores_table(run: &RunRecord, scores: &Scores) -> String {
    let mut out = String::from("variant,split,task,type,metric,rows,main_score,low,high,seed_mean\n");
    for (i, variant) in run.variants.iter().enumerate() {
        for (side, tasks) in [(&scores.dev, &variant.dev), (&scores.test, &variant.test)] {
            for t in tasks {
                // The report's intervals on dev are those of the mean over seeds.
                let ends = side.get(i, &t.name).map(|e| {
                    let shift = t.main_score - e.score;
                    [e.interval.0 + shift, e.interval.1 + shift]
                });
                let [low, high] = ends.unwrap_or([f64::NAN; 2]).map(number);
                out.push_str(&format!(
                    "{},{},{},{},{},{},{:.6},{low},{high},{:.6}\n",
                    quote(&variant.label),
                    side.on,
                    quote(&t.name),
                    t.task_type,
                    t.metric,
                    t.rows,
                    t.main_score,
                    t.mean_over_seeds()
                ));
            }
        }
    }
    let find = |name: &str| run.variants.iter().flat_map(|v| &v.test).find(|t| t.name == name);
    for published in &run.published {
        for (name, score) in &published.scores {
            let (kind, metric) = find(name).map_or(("", ""), |t| (&t.task_type, &t.metric));
            let model = quote(&format!("{} (published)", published.name));
            out.push_str(&format!("{model},test,{},{kind},{metric},,{score:.6},,,\n", quote(name)));
        }
    }
    out
}

/// Six decimals; nothing for what is not known.
fn number(value: f64) -> String {
    if value.is_finite() { format!("{value:.6}") } else { String::new() }
}

fn alpha_and_step(variant: &Variant) -> (String, String) {
    match &variant.kind {
        VariantKind::Trained { step, .. } => (String::new(), step.to_string()),
        VariantKind::Merged { alpha, .. } => (format!("{alpha:.6}"), String::new()),
        _ => Default::default(),
    }
}

fn variants_table(run: &RunRecord) -> String {
    let mut out = String::from("variant,id,kind,alpha,step,chosen,tokens,trainable,parameters,flops\n");
    for v in &run.variants {
        let (alpha, step) = alpha_and_step(v);
        let is_chosen = run.choice.as_ref().is_some_and(|c| c.id == v.id);
        let c = &v.cost;
        out.push_str(&format!(
            "{},{},{},{alpha},{step},{},{},{},{},{}\n",
            quote(&v.label),
            v.id,
            kind(v),
            u8::from(is_chosen),
            c.tokens,
            c.trainable,
            c.parameters,
            c.flops
        ));
    }
    out
}

fn settings_table(run: &RunRecord) -> String {
    let mut out = String::from("variant,kind,alpha,step,setting,value\n");
    for variant in &run.variants {
        let (alpha, step) = alpha_and_step(variant);
        for (key, value) in variant.settings.iter().chain(&run.settings) {
            out.push_str(&format!(
                "{},{},{alpha},{step},{},{}\n",
                quote(&variant.label),
                kind(variant),
                quote(key),
                quote(value)
            ));
        }
    }
    out
}

fn alpha_table(run: &RunRecord) -> String {
    let mut out = String::from("first,second,alpha,dev_score,low,high,chosen\n");
    for search in &run.searches {
        for p in &search.points {
            out.push_str(&format!(
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
    out
}

fn losses_table(run: &RunRecord) -> String {
    let mut out = String::from("trial,step,series,value\n");
    for curve in &run.curves {
        for (series, points) in
            [("train_loss", &curve.train_loss), ("dev_loss", &curve.dev_loss), ("dev_mrr", &curve.dev_score)]
        {
            for (step, value) in points {
                out.push_str(&format!("{},{step},{series},{value:.6}\n", quote(&curve.trial)));
            }
        }
    }
    out
}

fn unfinished_table(run: &RunRecord) -> String {
    let mut out = String::from("trial,state,step,dev_score,reason\n");
    for u in &run.unfinished {
        let step = u.step.map(|s| s.to_string()).unwrap_or_default();
        let score = u.score.map(number).unwrap_or_default();
        out.push_str(&format!("{},{},{step},{score},{}\n", quote(&u.label), quote(&u.state), quote(&u.reason)));
    }
    out
}

fn quote(text: &str) -> String {
    if text.contains([',', '"', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text.to_string() }
}
