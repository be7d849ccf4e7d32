// Convolutions of bf16 images (batch, height, width, channels) with oneDNN: the forward pass and both gradients, with
// fp32 sums. Callers pass fp32 weights (out, in, height, width); `any` lets oneDNN choose their layout, and the reorder
// rounds them.
#include <dnnl.hpp>

struct Convolution {
    using dims = dnnl::memory::dims;
    using desc = dnnl::memory::desc;
    using type = dnnl::memory::data_type;
    using tag = dnnl::memory::format_tag;
    using forward = dnnl::convolution_forward;
    using backward_data = dnnl::convolution_backward_data;
    using backward_weights = dnnl::convolution_backward_weights;

    static constexpr auto algorithm = dnnl::algorithm::convolution_direct;
    dnnl::engine engine{dnnl::engine::kind::cpu, 0};
    dnnl::stream stream{engine};
    desc x, y, w, bias, plain_w;
    dims strides, before, after;

    Convolution(const dims& x_dims, const dims& w_dims, const dims& y_dims, int stride, int before, int after)
        : x(x_dims, type::bf16, tag::nhwc), y(y_dims, type::bf16, tag::nhwc), w(w_dims, type::bf16, tag::any),
          bias({w_dims[0]}, type::f32, tag::x), plain_w(w_dims, type::f32, tag::oihw),
          strides{stride, stride}, before{before, before}, after{after, after} {}

    dnnl::memory at(const desc& what, const void* address) { return {what, engine, const_cast<void*>(address)}; }

    dnnl::memory rounded(const float* weights, const desc& layout) {
        dnnl::memory from = at(plain_w, weights), to(layout, engine);
        dnnl::reorder(from, to).execute(stream, from, to);
        return to;
    }

    forward::primitive_desc described(dnnl::prop_kind kind) {
        return {{kind, algorithm, x, w, bias, y, strides, before, after}, engine};
    }

    void forward_pass(const void* image, const float* weights, const float* biases, void* result) {
        const auto way = described(dnnl::prop_kind::forward_inference);
        forward(way).execute(stream, {{DNNL_ARG_SRC, at(x, image)},
                                      {DNNL_ARG_WEIGHTS, rounded(weights, way.weights_desc())},
                                      {DNNL_ARG_BIAS, at(bias, biases)}, {DNNL_ARG_DST, at(y, result)}});
        stream.wait();
    }

    void gradient_of_image(const void* grad, const float* weights, void* grad_image) {
        const backward_data::primitive_desc way({algorithm, x, w, y, strides, before, after}, engine,
                                                described(dnnl::prop_kind::forward_training));
        backward_data(way).execute(stream, {{DNNL_ARG_DIFF_DST, at(y, grad)},
                                            {DNNL_ARG_WEIGHTS, rounded(weights, way.weights_desc())},
                                            {DNNL_ARG_DIFF_SRC, at(x, grad_image)}});
        stream.wait();
    }

    void gradient_of_weights(const void* image, const void* grad, float* grad_weights) {
        const desc grad_w(w.dims(), type::f32, tag::any);
        const backward_weights::primitive_desc way({algorithm, x, grad_w, y, strides, before, after}, engine,
                                                   described(dnnl::prop_kind::forward_training));
        dnnl::memory from(way.diff_weights_desc(), engine), to = at(plain_w, grad_weights);
        backward_weights(way).execute(stream, {{DNNL_ARG_SRC, at(x, image)}, {DNNL_ARG_DIFF_DST, at(y, grad)},
                                               {DNNL_ARG_DIFF_WEIGHTS, from}});
        dnnl::reorder(from, to).execute(stream, from, to);
        stream.wait();
    }
};
