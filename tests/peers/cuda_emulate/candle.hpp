// candle's kernels by their names, as far as the project's models call them, written again for the CPU. Part of driver.cpp, whose
// `fail` ends the process.
#pragma once

// Numbers of a type, by the end of a kernel's name.
enum class Kind { F32, F64, Bf16, U8, U32, I32, I64 };

struct Type {
    Kind kind;
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
    static const std::map<std::string, Type> types = {
        {"f32", {Kind::F32, 4}}, {"f64", {Kind::F64, 8}}, {"bf16", {Kind::Bf16, 2}}, {"u8", {Kind::U8, 1}},
        {"u32", {Kind::U32, 4}}, {"i32", {Kind::I32, 4}}, {"i64", {Kind::I64, 8}}};
    auto known = types.find(name);
    if (known == types.end()) {
        fail("numbers of type " + name);
    }
    return known->second;
}

double get(const Type& type, const void* p, size_t i) {
    const char* at = static_cast<const char*>(p) + i * type.size;
    switch (type.kind) {
        case Kind::F32: return *reinterpret_cast<const float*>(at);
        case Kind::F64: return *reinterpret_cast<const double*>(at);
        case Kind::Bf16: return from_bf16(*reinterpret_cast<const uint16_t*>(at));
        case Kind::U8: return *reinterpret_cast<const uint8_t*>(at);
        case Kind::U32: return *reinterpret_cast<const uint32_t*>(at);
        case Kind::I32: return *reinterpret_cast<const int32_t*>(at);
        default: return double(*reinterpret_cast<const int64_t*>(at));
    }
}

void set(const Type& type, void* p, size_t i, double x) {
    char* at = static_cast<char*>(p) + i * type.size;
    switch (type.kind) {
        case Kind::F32: *reinterpret_cast<float*>(at) = float(x); break;
        case Kind::F64: *reinterpret_cast<double*>(at) = x; break;
        case Kind::Bf16: *reinterpret_cast<uint16_t*>(at) = to_bf16(float(x)); break;
        case Kind::U8: *reinterpret_cast<uint8_t*>(at) = uint8_t(x); break;
        case Kind::U32: *reinterpret_cast<uint32_t*>(at) = uint32_t(x); break;
        case Kind::I32: *reinterpret_cast<int32_t*>(at) = int32_t(x); break;
        default: *reinterpret_cast<int64_t*>(at) = int64_t(x);
    }
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
