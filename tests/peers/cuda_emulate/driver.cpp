// A GPU that is not there: CUDA's driver, NVRTC, cuBLAS and cuRAND as far as candle and this project call them, on the CPU. Memory
// is the host's; a kernel that is compiled at run time goes through g++ with shim.hpp, its threads are coroutines; candle's own
// kernels are written again below, by their names. What is not here ends the process with its name.
#include <dlfcn.h>
#include <ucontext.h>
#include <unistd.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <functional>
#include <map>
#include <mutex>
#include <sstream>
#include <string>
#include <vector>

struct Index {
    unsigned x, y, z;
};

// Threads of a block.
extern "C" {
Index emulated_thread, emulated_block, emulated_block_dim, emulated_grid_dim;
char* emulated_shared;
}

namespace {

constexpr size_t STACK = 256 << 10;

enum class State { Ready, Block, Warp, Done };

struct Fiber {
    ucontext_t context;
    std::vector<char> stack = std::vector<char>(STACK);
    State state = State::Done;
    Index thread;
};

std::vector<Fiber*> fibers;
ucontext_t scheduler;
size_t running;
uint32_t slots[64][32], operands[64][6 * 32];
std::function<void()> body;
std::recursive_mutex device;

[[noreturn]] void fail(const std::string& message) {
    fprintf(stderr, "emulated GPU: %s\n", message.c_str());
    abort();
}

void enter() {
    body();
    fibers[running]->state = State::Done;
    swapcontext(&fibers[running]->context, &scheduler);
}

// Runs all threads of a block to their end.
void run_block(size_t threads, const char* name) {
    while (fibers.size() < threads) {
        fibers.push_back(new Fiber);
    }
    for (size_t t = 0; t < threads; t++) {
        Fiber& fiber = *fibers[t];
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack.data();
        fiber.context.uc_stack.ss_size = STACK;
        fiber.context.uc_link = nullptr;
        makecontext(&fiber.context, enter, 0);
        fiber.state = State::Ready;
        fiber.thread = {unsigned(t), 0, 0};
    }
    for (;;) {
        bool ran = false;
        for (size_t t = 0; t < threads; t++) {
            if (fibers[t]->state != State::Ready) {
                continue;
            }
            running = t;
            emulated_thread = fibers[t]->thread;
            swapcontext(&scheduler, &fibers[t]->context);
            ran = true;
        }
        // A warp goes on when all of its lanes wait for it, the block when all of its threads wait for it.
        bool freed = false;
        for (size_t w = 0; w < threads; w += 32) {
            size_t end = std::min(threads, w + 32), waiting = 0;
            for (size_t t = w; t < end; t++) {
                waiting += fibers[t]->state == State::Warp;
            }
            if (waiting == end - w) {
                for (size_t t = w; t < end; t++) {
                    fibers[t]->state = State::Ready;
                }
                freed = true;
            }
        }
        size_t done = 0, waiting = 0;
        for (size_t t = 0; t < threads; t++) {
            done += fibers[t]->state == State::Done;
            waiting += fibers[t]->state == State::Block;
        }
        if (done == threads) {
            return;
        }
        if (waiting > 0 && waiting + done == threads) {
            if (done > 0) {
                fail(std::string(name) + ": a barrier that some threads have left");
            }
            for (size_t t = 0; t < threads; t++) {
                fibers[t]->state = State::Ready;
            }
            freed = true;
        }
        if (!ran && !freed) {
            fail(std::string(name) + ": threads wait for each other");
        }
    }
}

// Numbers of a type, by the end of a kernel's name.
struct Type {
    std::string name;
    size_t size;
};

float from_bf16(uint16_t bits) {
    uint32_t wide = uint32_t(bits) << 16;
    float x;
    memcpy(&x, &wide, 4);
    return x;
}

uint16_t to_bf16(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    if ((bits & 0x7fffffff) > 0x7f800000) {
        return 0x7fff;
    }
    return (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
}

Type type_of(const std::string& name) {
    static const std::map<std::string, size_t> sizes = {{"f32", 4}, {"f64", 8}, {"bf16", 2}, {"u8", 1},
                                                        {"u32", 4}, {"i32", 4}, {"i64", 8}};
    auto known = sizes.find(name);
    if (known == sizes.end()) {
        fail("numbers of type " + name);
    }
    return {name, known->second};
}

double get(const Type& type, const void* p, size_t i) {
    const char* at = static_cast<const char*>(p) + i * type.size;
    if (type.name == "f32") return *reinterpret_cast<const float*>(at);
    if (type.name == "f64") return *reinterpret_cast<const double*>(at);
    if (type.name == "bf16") return from_bf16(*reinterpret_cast<const uint16_t*>(at));
    if (type.name == "u8") return *reinterpret_cast<const uint8_t*>(at);
    if (type.name == "u32") return *reinterpret_cast<const uint32_t*>(at);
    if (type.name == "i32") return *reinterpret_cast<const int32_t*>(at);
    return double(*reinterpret_cast<const int64_t*>(at));
}

void set(const Type& type, void* p, size_t i, double x) {
    char* at = static_cast<char*>(p) + i * type.size;
    if (type.name == "f32") *reinterpret_cast<float*>(at) = float(x);
    else if (type.name == "f64") *reinterpret_cast<double*>(at) = x;
    else if (type.name == "bf16") *reinterpret_cast<uint16_t*>(at) = to_bf16(float(x));
    else if (type.name == "u8") *reinterpret_cast<uint8_t*>(at) = uint8_t(x);
    else if (type.name == "u32") *reinterpret_cast<uint32_t*>(at) = uint32_t(x);
    else if (type.name == "i32") *reinterpret_cast<int32_t*>(at) = int32_t(x);
    else *reinterpret_cast<int64_t*>(at) = int64_t(x);
}

// Candle's kernels, by name.
struct Call {
    void** args;
    template <class T>
    T at(int i) const {
        return *static_cast<T*>(args[i]);
    }
    size_t size(int i) const {
        return at<size_t>(i);
    }
    void* pointer(int i) const {
        return at<void*>(i);
    }
};

// Where value i of a tensor of these dimensions is; `table` counts the tables of strides after them.
size_t place(size_t i, size_t dims, const size_t* info, size_t table) {
    if (!info) {
        return i;
    }
    size_t at = 0;
    for (size_t d = dims; d-- > 0;) {
        at += i % info[d] * info[(1 + table) * dims + d];
        i /= info[d];
    }
    return at;
}

bool starts(const std::string& name, const char* with) {
    return name.rfind(with, 0) == 0;
}

double unary(const std::string& op, double x) {
    if (op == "neg") return -x;
    if (op == "exp") return exp(x);
    if (op == "log") return log(x);
    if (op == "sqr") return x * x;
    if (op == "sqrt") return sqrt(x);
    if (op == "tanh") return tanh(x);
    if (op == "abs") return fabs(x);
    if (op == "recip") return 1 / x;
    if (op == "sin") return sin(x);
    if (op == "cos") return cos(x);
    if (op == "relu") return x > 0 ? x : 0;
    if (op == "silu") return x / (1 + exp(-x));
    if (op == "erf") return erf(x);
    if (op == "gelu") return 0.5 * x * (1 + tanh(sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    if (op == "gelu_erf") return 0.5 * x * (1 + erf(x / sqrt(2.0)));
    if (op == "sign") return (x > 0) - (x < 0);
    fail("candle's kernel u" + op);
}

double binary(const std::string& op, double x, double y) {
    if (op == "badd") return x + y;
    if (op == "bsub") return x - y;
    if (op == "bmul") return x * y;
    if (op == "bdiv") return x / y;
    if (op == "bminimum") return std::min(x, y);
    if (op == "bmaximum") return std::max(x, y);
    if (op == "eq") return x == y;
    if (op == "ne") return x != y;
    if (op == "lt") return x < y;
    if (op == "le") return x <= y;
    if (op == "gt") return x > y;
    if (op == "ge") return x >= y;
    fail("candle's kernel " + op);
}

void candle(const std::string& name, const Call& call) {
    size_t cut = name.rfind('_');
    std::string op = name.substr(0, cut);
    Type type = type_of(name.substr(cut + 1));
    if (op == "copy2d") {
        auto *from = static_cast<char*>(call.pointer(0)), *to = static_cast<char*>(call.pointer(1));
        uint32_t d1 = call.at<uint32_t>(2), d2 = call.at<uint32_t>(3), s = call.at<uint32_t>(4), t = call.at<uint32_t>(5);
        for (size_t i = 0; i < d1; i++) {
            memcpy(to + i * t * type.size, from + i * s * type.size, d2 * type.size);
        }
        return;
    }
    if (op == "ucopy") {
        auto *from = static_cast<char*>(call.pointer(3)), *to = static_cast<char*>(call.pointer(4));
        for (size_t i = 0; i < call.size(0); i++) {
            memcpy(to + i * type.size, from + place(i, call.size(1), call.at<size_t*>(2), 0) * type.size, type.size);
        }
        return;
    }
    if (op == "affine") {
        double mul = get(type, call.args[5], 0), add = get(type, call.args[6], 0);
        void* from = call.pointer(3) ? call.pointer(3) : call.pointer(4);
        for (size_t i = 0; i < call.size(0); i++) {
            set(type, call.pointer(4), i, get(type, from, place(i, call.size(1), call.at<size_t*>(2), 0)) * mul + add);
        }
        return;
    }
    if (op == "powf") {
        double power = get(type, call.args[3], 0);
        for (size_t i = 0; i < call.size(0); i++) {
            set(type, call.pointer(5), i, pow(get(type, call.pointer(4), place(i, call.size(1), call.at<size_t*>(2), 0)), power));
        }
        return;
    }
    if (op == "const_set") {
        for (size_t i = 0; i < call.size(0); i++) {
            set(type, call.pointer(4), place(i, call.size(1), call.at<size_t*>(2), 0), get(type, call.args[3], 0));
        }
        return;
    }
    if (starts(op, "cast_")) {
        Type from = type_of(op.substr(5));
        for (size_t i = 0; i < call.size(0); i++) {
            set(type, call.pointer(4), i, get(from, call.pointer(3), place(i, call.size(1), call.at<size_t*>(2), 0)));
        }
        return;
    }
    if (starts(op, "fast_")) {
        bool small = op == "fast_sum_small";
        size_t each = call.size(1), count = small ? call.size(0) : call.size(0) / each;
        std::string kind = small ? "sum" : op.substr(5);
        for (size_t o = 0; o < count; o++) {
            double best = kind == "sum" ? 0.0 : kind == "max" || kind == "argmax" ? -INFINITY : INFINITY;
            size_t where = 0;
            for (size_t i = 0; i < each; i++) {
                double x = get(type, call.pointer(4), place(o * each + i, call.size(2), call.at<size_t*>(3), 0));
                if (kind == "sum") best += x;
                else if ((kind == "max" || kind == "argmax") ? x > best : x < best) best = x, where = i;
            }
            if (starts(kind, "arg")) static_cast<uint32_t*>(call.pointer(5))[o] = where;
            else set(type, call.pointer(5), o, best);
        }
        return;
    }
    if (starts(op, "is_")) {
        Type ids = type_of(op.substr(3));
        size_t left = call.size(6), source = call.size(7), many = call.size(8), right = call.size(9);
        for (size_t i = 0; i < left * many * right; i++) {
            size_t id = get(ids, call.pointer(3), i / right % many);
            if (id >= source) fail("an index outside its table");
            size_t at = (i / (many * right) * source + id) * right + i % right;
            set(type, call.pointer(5), i, get(type, call.pointer(4), at));
        }
        return;
    }
    if (starts(op, "ia_") || starts(op, "sa_")) {
        bool same = starts(op, "sa_");
        Type ids = type_of(op.substr(3));
        int a = same ? 1 : 2;
        size_t left = call.size(a + 2), from = call.size(a + 3), to = call.size(a + 4), right = call.size(a + 5);
        if (!same) from = call.size(1);
        for (size_t i = 0; i < left * right; i++) {
            for (size_t j = 0; j < from; j++) {
                size_t at = (i / right * from + j) * right + i % right;
                size_t id = get(ids, call.pointer(0), same ? at : j);
                size_t o = (i / right * to + id) * right + i % right;
                set(type, call.pointer(a + 1), o, get(type, call.pointer(a + 1), o) + get(type, call.pointer(a), at));
            }
        }
        return;
    }
    if (starts(op, "gather_")) {
        Type ids = type_of(op.substr(7));
        size_t source = call.size(5), many = call.size(6), right = call.size(7);
        for (size_t i = 0; i < call.size(0); i++) {
            size_t id = get(ids, call.pointer(1), i);
            size_t at = (i / (right * many) * source + id) * right + i % right;
            set(type, call.pointer(3), i, get(type, call.pointer(2), at));
        }
        return;
    }
    if (starts(op, "where_")) {
        Type ids = type_of(op.substr(6));
        const size_t* info = call.at<size_t*>(2);
        size_t dims = call.size(1);
        for (size_t i = 0; i < call.size(0); i++) {
            bool yes = get(ids, call.pointer(3), place(i, dims, info, 0)) != 0;
            set(type, call.pointer(6), i, yes ? get(type, call.pointer(4), place(i, dims, info, 1)) : get(type, call.pointer(5), place(i, dims, info, 2)));
        }
        return;
    }
    const size_t* info = call.at<size_t*>(2);
    if (op[0] == 'u') {
        void* from = call.pointer(3) ? call.pointer(3) : call.pointer(4);
        for (size_t i = 0; i < call.size(0); i++) {
            set(type, call.pointer(4), i, unary(op.substr(1), get(type, from, place(i, call.size(1), info, 0))));
        }
        return;
    }
    Type result = op[0] == 'b' ? type : type_of("u8");
    for (size_t i = 0; i < call.size(0); i++) {
        double x = get(type, call.pointer(3), place(i, call.size(1), info, 0));
        double y = get(type, call.pointer(4), place(i, call.size(1), info, 1));
        set(result, call.pointer(5), i, binary(op, x, y));
    }
}

struct Function {
    std::string name;
    void (*compiled)(void**);
    int shared = 48 << 10;
};

struct Module {
    void* library;
    std::map<std::string, Function*> functions;
};

struct Program {
    std::string source, result, log;
};

// Compiles a kernel with g++; gives the library's path.
bool compile(Program& program, const std::vector<std::string>& options) {
    std::string folder = getenv("EMULATED_FOLDER") ? getenv("EMULATED_FOLDER") : "/tmp";
    std::string macros, text = program.source, wrappers;
    for (auto& option : options) {
        if (starts(option, "--define-macro=")) {
            macros += " -D'" + option.substr(15) + "'";
        }
    }
    for (size_t at = 0; (at = text.find("__global__ void ", at)) != std::string::npos;) {
        at += 16;
        std::string name = text.substr(at, text.find('(', at) - at);
        wrappers += "\n#define EMULATED_" + name + "\nextern \"C\" void run_" + name + "(void** args) { emulated_call(" + name + ", args); }\n";
    }
    // A function that is switched off has no wrapper: try with fewer.
    size_t shared = text.find("extern __shared__ float shared[];");
    while (shared != std::string::npos) {
        text.replace(shared, 33, "float* shared = (float*)emulated_shared;");
        shared = text.find("extern __shared__ float shared[];", shared);
    }
    size_t hash = std::hash<std::string>()(text + macros + wrappers);
    std::string base = folder + "/kernel-" + std::to_string(hash), library = base + ".so";
    if (access(library.c_str(), R_OK) != 0) {
        std::string flags = getenv("EMULATED_FLAGS") ? getenv("EMULATED_FLAGS") : "";
        auto build = [&](const std::string& source) {
            std::ofstream(base + ".cpp") << "#include \"shim.hpp\"\n#line 1\n" << source;
            std::string part = library + "." + std::to_string(getpid());
            std::string command = "g++ -O2 -std=c++17 -fPIC -shared -w " + flags + macros + " -I'" + folder + "' -o '" + part + "' '" + base + ".cpp' 2>'" + base + ".log' && mv '" + part + "' '" + library + "'";
            return system(command.c_str()) == 0;
        };
        // Wrappers of functions that the macros leave out are left out, too.
        std::string kept;
        std::ofstream(base + ".cpp") << "#include \"shim.hpp\"\n" << text;
        std::string preprocess = "g++ -E -P -std=c++17 -w" + macros + " -I'" + folder + "' '" + base + ".cpp' >'" + base + ".i' 2>/dev/null";
        if (system(preprocess.c_str()) != 0) {
            program.log = "cannot preprocess " + base + ".cpp";
            return false;
        }
        std::ifstream preprocessed(base + ".i");
        std::stringstream whole;
        whole << preprocessed.rdbuf();
        std::istringstream lines(wrappers);
        for (std::string line, next; std::getline(lines, line);) {
            if (!starts(line, "#define EMULATED_")) continue;
            std::string name = line.substr(17);
            std::getline(lines, next);
            if (whole.str().find("void " + name + "(") != std::string::npos) kept += next + "\n";
        }
        if (!build(text + "\n" + kept)) {
            std::ifstream log(base + ".log");
            std::stringstream content;
            content << log.rdbuf();
            program.log = content.str();
            return false;
        }
    }
    program.result = "EMULATED " + library;
    return true;
}

std::map<void*, size_t> allocated;

void* allocate(size_t bytes) {
    void* p = malloc(bytes + (bytes == 0));
    // Not a number, in all types: what reads values that nobody wrote shows it.
    memset(p, 0xff, bytes);
    return p;
}

bool absent() {
    return getenv("EMULATED_ABSENT") != nullptr;
}

}  // namespace

extern "C" {

void emulated_wait(int warp) {
    Fiber& fiber = *fibers[running];
    fiber.state = warp ? State::Warp : State::Block;
    swapcontext(&fiber.context, &scheduler);
}

uint32_t* emulated_operands() {
    return operands[emulated_thread.x / 32];
}

uint32_t* emulated_slots() {
    return slots[emulated_thread.x / 32];
}

int cuInit(unsigned) { return absent() ? 100 : 0; }
int cuGetErrorName(int, const char** text) { *text = "CUDA_ERROR_NO_DEVICE"; return 0; }
int cuGetErrorString(int, const char** text) { *text = "no CUDA-capable device is detected"; return 0; }
int cuDeviceGetCount(int* count) { *count = 1; return 0; }
int cuDeviceGet(int* out, int) { *out = 0; return 0; }
int cuDeviceGetAttribute(int* value, int attribute, int) {
    // Compute capability 8.0; no memory pools.
    *value = attribute == 75 ? 8 : 0;
    return 0;
}
int cuDevicePrimaryCtxRetain(void** context, int) { *context = &device; return 0; }
int cuDevicePrimaryCtxRelease_v2(int) { return 0; }
int cuCtxSetCurrent(void*) { return 0; }
int cuCtxGetCurrent(void** context) { *context = &device; return 0; }
int cuCtxSynchronize(void*) { return 0; }
int cuStreamCreate(void** stream, unsigned) { *stream = &device; return 0; }
int cuStreamDestroy_v2(void*) { return 0; }
int cuStreamSynchronize(void*) { return 0; }
int cuStreamWaitEvent(void*, void*, unsigned) { return 0; }
int cuStreamIsCapturing(void*, int* capturing) { *capturing = 0; return 0; }
int cuEventCreate(void** event, unsigned) { *event = &device; return 0; }
int cuEventRecord(void*, void*) { return 0; }
int cuEventDestroy_v2(void*) { return 0; }
int cuEventSynchronize(void*) { return 0; }
int cuMemAlloc_v2(uint64_t* p, size_t bytes) { *p = uint64_t(allocate(bytes)); return 0; }
int cuMemAllocAsync(uint64_t* p, size_t bytes, void*) { return cuMemAlloc_v2(p, bytes); }
int cuMemFree_v2(uint64_t p) { free(reinterpret_cast<void*>(p)); return 0; }
int cuMemFreeAsync(uint64_t p, void*) { return cuMemFree_v2(p); }
int cuMemsetD8Async(uint64_t p, unsigned char value, size_t n, void*) { memset(reinterpret_cast<void*>(p), value, n); return 0; }
int cuMemsetD8_v2(uint64_t p, unsigned char value, size_t n) { return cuMemsetD8Async(p, value, n, nullptr); }
int cuMemcpyHtoDAsync_v2(uint64_t to, const void* from, size_t n, void*) { memcpy(reinterpret_cast<void*>(to), from, n); return 0; }
int cuMemcpyDtoHAsync_v2(void* to, uint64_t from, size_t n, void*) { memcpy(to, reinterpret_cast<void*>(from), n); return 0; }
int cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t n, void*) { memmove(reinterpret_cast<void*>(to), reinterpret_cast<void*>(from), n); return 0; }

int cuModuleLoadData(Module** module, const char* image) {
    *module = new Module{nullptr, {}};
    if (starts(image, "EMULATED ")) {
        (*module)->library = dlopen(image + 9, RTLD_NOW);
        if (!(*module)->library) fail(dlerror());
    }
    return 0;
}
int cuModuleUnload(Module*) { return 0; }
int cuModuleGetFunction(Function** function, Module* module, const char* name) {
    std::lock_guard<std::recursive_mutex> guard(device);
    Function*& known = module->functions[name];
    if (!known) {
        known = new Function{name, nullptr};
        if (module->library) {
            known->compiled = reinterpret_cast<void (*)(void**)>(dlsym(module->library, ("run_" + std::string(name)).c_str()));
            if (!known->compiled) fail(std::string("no kernel ") + name);
        }
    }
    *function = known;
    return 0;
}
int cuFuncSetAttribute(Function* function, int attribute, int value) {
    // The largest dynamic shared memory: what a compute capability of 8.6 allows.
    if (attribute != 8 || value > 99 << 10) return 1;
    function->shared = value;
    return 0;
}
int cuLaunchKernel(Function* function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared, void*, void** args, void**) {
    std::lock_guard<std::recursive_mutex> guard(device);
    if (!function->compiled) {
        candle(function->name, Call{args});
        return 0;
    }
    if (by != 1 || bz != 1 || gz != 1 || bx > 1024 || gy > 65535 || int(shared) > function->shared) {
        fail(function->name + ": a launch that a GPU refuses");
    }
    emulated_block_dim = {bx, 1, 1};
    emulated_grid_dim = {gx, gy, 1};
    body = [function, args] { function->compiled(args); };
    for (unsigned y = 0; y < gy; y++) {
        for (unsigned x = 0; x < gx; x++) {
            emulated_block = {x, y, 0};
            emulated_shared = static_cast<char*>(allocate(shared));
            run_block(bx, function->name.c_str());
            free(emulated_shared);
        }
    }
    return 0;
}

int nvrtcCreateProgram(Program** program, const char* source, const char*, int, const char* const*, const char* const*) { *program = new Program{source, "", ""}; return 0; }
int nvrtcDestroyProgram(Program** program) { delete *program; return 0; }
int nvrtcCompileProgram(Program* program, int count, const char* const* options) {
    return compile(*program, std::vector<std::string>(options, options + count)) ? 0 : 6;
}
int nvrtcGetPTXSize(Program* program, size_t* size) { *size = program->result.size() + 1; return 0; }
int nvrtcGetPTX(Program* program, char* out) { strcpy(out, program->result.c_str()); return 0; }
int nvrtcGetProgramLogSize(Program* program, size_t* size) { *size = program->log.size() + 1; return 0; }
int nvrtcGetProgramLog(Program* program, char* out) { strcpy(out, program->log.c_str()); return 0; }

int cublasCreate_v2(void** handle) { *handle = &device; return 0; }
int cublasDestroy_v2(void*) { return 0; }
int cublasSetStream_v2(void*, void*) { return 0; }
int cublasSetWorkspace_v2(void*, void*, size_t) { return 0; }
int cublasGemmStridedBatchedEx(void*, int ta, int tb, int m, int n, int k, const void* alpha, const void* a, int at, int lda, long long sa, const void* b, int bt, int ldb, long long sb, const void* beta, void* c, int ct, int ldc, long long sc, int batches, int, int) {
    // 0: f32, 14: bf16; sums are of f32, and so are alpha and beta.
    auto type = [](int kind) { return type_of(kind == 14 ? "bf16" : kind == 0 ? "f32" : "unknown of cuBLAS"); };
    Type ta_ = type(at), tb_ = type(bt), tc_ = type(ct);
    float scale = *static_cast<const float*>(alpha), keep = *static_cast<const float*>(beta);
    for (long long s = 0; s < batches; s++) {
        for (int j = 0; j < n; j++) {
            for (int i = 0; i < m; i++) {
                double sum = 0;
                for (int l = 0; l < k; l++) {
                    sum += get(ta_, a, s * sa + (ta ? l + (long long)i * lda : i + (long long)l * lda)) * get(tb_, b, s * sb + (tb ? j + (long long)l * ldb : l + (long long)j * ldb));
                }
                size_t at = s * sc + i + (long long)j * ldc;
                set(tc_, c, at, scale * sum + (keep != 0 ? keep * get(tc_, c, at) : 0.0));
            }
        }
    }
    return 0;
}
int curandCreateGenerator(void** generator, int) { *generator = &device; return 0; }
int curandDestroyGenerator(void*) { return 0; }
int curandSetPseudoRandomGeneratorSeed(void*, unsigned long long) { return 0; }
int curandSetStream(void*, void*) { return 0; }
}
