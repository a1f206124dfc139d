// A GPU that is not there: CUDA's driver, NVRTC, cuBLAS and cuRAND as far as candle and this project call them, on the CPU. Memory
// is the host's; a kernel that is compiled at run time goes through g++ with shim.hpp, its threads are coroutines; candle's own
// kernels are written again in candle.hpp. What is not here ends the process with its name.
#include <dlfcn.h>
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

#if !defined(__x86_64__)
#error "coroutines are switched in x86-64's own words"
#endif

// Puts the registers that functions keep, and where to go on, on the stack, and takes up those of another one.
asm(R"(
.text
.globl emulated_switch
emulated_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
)");

// Threads of a block.
extern "C" {
void emulated_switch(void** from, void* to);
Index emulated_thread, emulated_block, emulated_block_dim, emulated_grid_dim;
char* emulated_shared;
}

namespace {

constexpr size_t STACK = 256 << 10;

enum class State { Ready, Block, Warp, Done };

struct Fiber {
    void* place = nullptr;
    std::vector<char> stack = std::vector<char>(STACK);
    State state = State::Done;
    Index thread;
};

std::vector<Fiber*> fibers;
void* scheduler;
size_t running;
uint32_t slots[64][32], operands[64][6 * 32];
std::function<void()> body;
std::recursive_mutex device;

[[noreturn]] void fail(const std::string& message) {
    fprintf(stderr, "emulated GPU: %s\n", message.c_str());
    abort();
}

// A thread of every block there is.
void enter() {
    for (;;) {
        body();
        fibers[running]->state = State::Done;
        emulated_switch(&fibers[running]->place, scheduler);
    }
}

// Runs all threads of a block to their end.
void run_block(size_t threads, const char* name) {
    while (fibers.size() < threads) {
        Fiber* fiber = new Fiber;
        // As `emulated_switch` leaves it: six registers, where to go on, and a return address that is none.
        uintptr_t top = reinterpret_cast<uintptr_t>(fiber->stack.data() + STACK) & ~uintptr_t(15);
        void** words = reinterpret_cast<void**>(top);
        words[-1] = nullptr;
        words[-2] = reinterpret_cast<void*>(enter);
        for (int i = 3; i <= 8; i++) {
            words[-i] = nullptr;
        }
        fiber->place = words - 8;
        fiber->thread = {unsigned(fibers.size()), 0, 0};
        fibers.push_back(fiber);
    }
    for (size_t t = 0; t < threads; t++) {
        fibers[t]->state = State::Ready;
    }
    for (;;) {
        bool ran = false;
        for (size_t t = 0; t < threads; t++) {
            if (fibers[t]->state != State::Ready) {
                continue;
            }
            running = t;
            emulated_thread = fibers[t]->thread;
            emulated_switch(&scheduler, fibers[t]->place);
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

#include "candle.hpp"

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
    emulated_switch(&fiber.place, scheduler);
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
        // Rows of the left and columns of the right one after the other.
        std::vector<float> left(size_t(m) * k), right(size_t(n) * k);
        for (int l = 0; l < k; l++) {
            for (int i = 0; i < m; i++) left[size_t(i) * k + l] = get(ta_, a, s * sa + (ta ? l + (long long)i * lda : i + (long long)l * lda));
            for (int j = 0; j < n; j++) right[size_t(j) * k + l] = get(tb_, b, s * sb + (tb ? j + (long long)l * ldb : l + (long long)j * ldb));
        }
        for (int j = 0; j < n; j++) {
            for (int i = 0; i < m; i++) {
                double sum = 0;
                for (int l = 0; l < k; l++) sum += double(left[size_t(i) * k + l]) * right[size_t(j) * k + l];
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
