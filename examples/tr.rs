use embeval::train::*; use embeval::train::schedule::Shape; use embeval::train::optimizer::AdamW; use embeval::objective::Direction; use embeval::adapter::LoraSpec;
#[global_allocator]
static A: mimalloc::MiMalloc = mimalloc::MiMalloc;
fn main() {
    let a: Vec<String> = std::env::args().collect();
    let files = embeval::model::ModelFiles::load(std::path::Path::new(&a[1])).unwrap();
    let text = std::fs::read_to_string(&a[2]).unwrap();
    let rows: Vec<embeval::data::rows::PairRow> = text.lines().map(|l| { let v: serde_json::Value = serde_json::from_str(l).unwrap(); embeval::data::rows::PairRow{query: v["query"].as_str().unwrap().into(), positives: vec![v["pos"][0].as_str().unwrap().into()], negatives: vec![]} }).collect();
    let s = Settings { direction: Direction::Asymmetric, temperature: 0.05, hard_negatives: 0, prompts: ("".into(), "".into()), max_length: (128,128), adapter: if a[3]=="lora" {Some((LoraSpec{rank:8,alpha:16.,dropout:0.,rslora:false}, vec!["query".into(),"value".into()]))} else {None}, freeze: vec![], epochs: 1, max_steps: Some(10), batch: 32, accumulate: 1, lr: 2e-5, schedule: Shape::Constant, warmup: 0., optimizer: AdamW{betas:(0.9,0.999),eps:1e-8,weight_decay:0.01,clip:Some(1.0)}, seed: 1, eval_every: None, save_every: None };
    let b: Vec<Vec<usize>> = (0..10).map(|i| (i*32..i*32+32).collect()).collect();
    let r = run::Run{ base:&files, base_name:"x", start:None, settings:&s, rows:&rows, dev:&[], device:&candle_core::Device::Cpu, output:None, progress:&|_,_,_|{}, fixed_batches: Some(&b)};
    let (o,_) = run(&r).unwrap();
    println!("{} tokens {} s {:.2} tok/s {:.0} {:?}", a[3], o.tokens, o.seconds, o.tokens as f64/o.seconds, o.losses);
}
