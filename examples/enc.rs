use std::time::Instant;
#[global_allocator]
static A: mimalloc::MiMalloc = mimalloc::MiMalloc;
fn main() {
    let a: Vec<String> = std::env::args().collect();
    let t = Instant::now();
    let files = embeval::model::ModelFiles::load(std::path::Path::new(&a[1])).unwrap();
    let e = embeval::model::Embedder::build(&files, &Default::default()).unwrap();
    eprintln!("load {:?}", t.elapsed());
    let text = std::fs::read_to_string(&a[2]).unwrap();
    let rows: Vec<String> = text.lines().map(|l| { let v: serde_json::Value = serde_json::from_str(l).unwrap(); v["text"].as_str().or(v["query"].as_str()).or(v["sentence1"].as_str()).unwrap().to_string() }).collect();
    let rows: Vec<&str> = rows.iter().map(|s| s.as_str()).collect();
    for _ in 0..3 {
    let t = Instant::now();
    let out = embeval::encode::encode(&e, &rows, "", &|_| {}).unwrap();
    let s = t.elapsed().as_secs_f64();
    println!("{} texts {} tokens {:.3}s {:.0} tok/s; first {:?}", rows.len(), out.tokens, s, out.tokens as f64 / s, &out.embeddings.row(0)[..4]);
    }
}
