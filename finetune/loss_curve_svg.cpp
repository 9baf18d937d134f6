#include "finetune/loss_curve_svg.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <limits>

#include "data/core/error.h"

namespace quarry {
namespace {

// Geometry in user units.
constexpr double kWidth = 800;
constexpr double kHeight = 480;
constexpr double kLeft = 72;
constexpr double kRight = 24;
constexpr double kTop = 48;
constexpr double kBottom = 56;
constexpr size_t kMaxPoints = 1500;  // of a drawn line: about two a pixel

constexpr const char* kTrainColor = "#1f6fb4";
constexpr const char* kEvalColor = "#d1495b";

using Points = std::vector<std::pair<int64_t, double>>;

std::string number(double value, int digits = 6) {
  std::array<char, 64> buffer;
  const auto end = std::to_chars(buffer.data(), buffer.data() + buffer.size(), value,
                                 std::chars_format::general, digits)
                       .ptr;
  return {buffer.data(), end};
}

// A coordinate: two decimals are enough for any screen.
std::string place(double value) { return number(std::round(value * 100) / 100, 7); }

std::string escaped(const std::string& text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      default:
        out += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
    }
  }
  return out;
}

Points finite_points(const Points& points) {
  Points finite;
  for (const auto& point : points) {
    if (std::isfinite(point.second)) finite.push_back(point);
  }
  return finite;
}

Points smoothed(const Points& points, double smoothing) {
  Points out;
  double average = 0;
  double weight = 0;
  for (const auto& [step, loss] : points) {
    average = smoothing * average + (1 - smoothing) * loss;
    weight = smoothing * weight + (1 - smoothing);
    out.emplace_back(step, average / weight);
  }
  return out;
}

// Every k-th point, the last one included.
Points thinned(const Points& points) {
  const size_t stride = (points.size() + kMaxPoints - 1) / kMaxPoints;
  if (stride <= 1) return points;
  Points out;
  for (size_t i = points.size() - 1;; i -= stride) {
    out.push_back(points[i]);
    if (i < stride) break;
  }
  std::reverse(out.begin(), out.end());
  return out;
}

// Ticks of 1, 2 or 5 times a power of ten, about `wanted` of them.
double tick_step(double span, int wanted, double smallest) {
  const double rough = std::max(span / wanted, smallest);
  const double power = std::pow(10, std::floor(std::log10(rough)));
  for (const double factor : {1.0, 2.0, 5.0}) {
    if (factor * power >= rough * 0.999) return std::max(factor * power, smallest);
  }
  return std::max(10 * power, smallest);
}

struct Axis {
  double low = 0;
  double high = 1;
  double step = 1;
  double begin = 0;  // coordinates of low and high
  double end = 1;
  double at(double value) const { return begin + (value - low) / (high - low) * (end - begin); }
  std::vector<double> ticks() const {
    std::vector<double> values;
    for (double i = std::ceil(low / step - 1e-9); i * step <= high + 1e-9 * step; ++i) {
      values.push_back(i * step + 0.0);  // + 0.0: no "-0"
    }
    return values;
  }
};

Axis step_axis(const Points& train, const Points& eval) {
  Axis axis;
  axis.begin = kLeft;
  axis.end = kWidth - kRight;
  int64_t last = 1;
  for (const Points* points : {&train, &eval}) {
    for (const auto& point : *points) last = std::max(last, point.first);
  }
  axis.high = static_cast<double>(last);
  axis.step = tick_step(axis.high, 8, 1);
  return axis;
}

// Shows the smoothed line and the dots in full, and all but the outliers of the raw line.
Axis loss_axis(const Points& train, const Points& smooth, const Points& eval) {
  double low = std::numeric_limits<double>::infinity();
  double high = -low;
  const auto include = [&](double value) {
    low = std::min(low, value);
    high = std::max(high, value);
  };
  for (const auto& point : smooth) include(point.second);
  for (const auto& point : eval) include(point.second);
  if (!train.empty()) {
    std::vector<double> sorted;
    for (const auto& point : train) sorted.push_back(point.second);
    std::sort(sorted.begin(), sorted.end());
    include(sorted[sorted.size() / 50]);
    include(sorted[sorted.size() - 1 - sorted.size() / 50]);
  }
  if (!(low <= high)) low = 0, high = 1;
  if (high - low < 1e-9 * std::max(1.0, std::fabs(high))) low -= 0.5, high += 0.5;
  Axis axis;
  axis.begin = kHeight - kBottom;
  axis.end = kTop;
  axis.step = tick_step(high - low, 6, 0);
  axis.low = std::floor(low / axis.step) * axis.step;
  axis.high = std::ceil(high / axis.step) * axis.step;
  return axis;
}

std::string polyline(const Points& points, const Axis& x, const Axis& y, const std::string& style) {
  if (points.empty()) return "";
  std::string out = "<polyline fill=\"none\" clip-path=\"url(#plot)\" " + style + " points=\"";
  for (const auto& [step, loss] : points) {
    out += place(x.at(static_cast<double>(step))) + "," + place(y.at(loss)) + " ";
  }
  out.back() = '"';
  return out + "/>\n";
}

std::string text(double x, double y, const std::string& attributes, const std::string& content) {
  return "<text x=\"" + place(x) + "\" y=\"" + place(y) + "\" " + attributes + ">" +
         escaped(content) + "</text>\n";
}

std::string line(double x1, double y1, double x2, double y2, const std::string& color) {
  return concat("<line x1=\"", place(x1), "\" y1=\"", place(y1), "\" x2=\"", place(x2), "\" y2=\"",
                place(y2), "\" stroke=\"", color, "\"/>\n");
}

std::string axes(const Axis& x, const Axis& y) {
  std::string out;
  for (const double value : y.ticks()) {
    out += line(x.begin, y.at(value), x.end, y.at(value), "#e4e7eb");
    // Of a value that rounding left near zero: 0.
    const double shown = std::fabs(value) < 1e-9 * y.step ? 0 : value;
    out += text(x.begin - 8, y.at(value) + 4, "text-anchor=\"end\"", number(shown));
  }
  for (const double value : x.ticks()) {
    out += line(x.at(value), y.begin, x.at(value), y.begin + 5, "#52606d");
    out += text(x.at(value), y.begin + 20, "text-anchor=\"middle\"", number(value, 9));
  }
  out += line(x.begin, y.begin, x.end, y.begin, "#52606d");
  out += line(x.begin, y.begin, x.begin, y.end, "#52606d");
  out += text((x.begin + x.end) / 2, kHeight - 14, "text-anchor=\"middle\"", "optimizer step");
  const double middle = (y.begin + y.end) / 2;
  out += text(18, middle,
              concat("text-anchor=\"middle\" transform=\"rotate(-90 18 ", place(middle), ")\""),
              "loss");
  return out;
}

std::string legend(bool has_eval) {
  const double y = kTop - 14;
  double x = kWidth - kRight - (has_eval ? 250 : 180);
  std::string out = concat("<line x1=\"", x, "\" y1=\"", y - 4, "\" x2=\"", x + 24, "\" y2=\"",
                           y - 4, "\" stroke=\"", kTrainColor, "\" stroke-width=\"2.5\"/>\n");
  out += text(x + 30, y, "", "train loss (smoothed)");
  if (has_eval) {
    x += 180;
    out += concat("<circle cx=\"", x + 12, "\" cy=\"", y - 4, "\" r=\"4\" fill=\"", kEvalColor,
                  "\"/>\n");
    out += text(x + 24, y, "", "eval loss");
  }
  return out;
}

}  // namespace

std::string loss_curve_svg(const LossCurve& curve) {
  const Points train = finite_points(curve.train);
  const Points eval = finite_points(curve.eval);
  const Points smooth = smoothed(train, std::clamp(curve.smoothing, 0.0, 0.999));
  const Axis x = step_axis(train, eval);
  const Axis y = loss_axis(train, smooth, eval);
  std::string out =
      concat("<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 ", kWidth, " ", kHeight,
             "\" width=\"", kWidth, "\" height=\"", kHeight,
             "\" font-family=\"system-ui, sans-serif\" font-size=\"12\" fill=\"#323f4b\">\n",
             "<clipPath id=\"plot\"><rect x=\"", kLeft, "\" y=\"", kTop, "\" width=\"",
             kWidth - kLeft - kRight, "\" height=\"", kHeight - kTop - kBottom, "\"/></clipPath>\n",
             "<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n");
  out += text(kLeft, kTop - 14, "font-size=\"15\" font-weight=\"600\"", curve.title);
  out += axes(x, y);
  const std::string train_color = concat("stroke=\"", kTrainColor, "\" stroke-linejoin=\"round\"");
  out += polyline(thinned(train), x, y, train_color + " stroke-opacity=\"0.25\"");
  out += polyline(thinned(smooth), x, y, train_color + " stroke-width=\"2.5\"");
  out += polyline(eval, x, y, concat("stroke=\"", kEvalColor, "\" stroke-width=\"1.5\""));
  for (const auto& [step, loss] : eval) {
    out += concat("<circle cx=\"", place(x.at(static_cast<double>(step))), "\" cy=\"",
                  place(y.at(loss)), "\" r=\"4\" fill=\"", kEvalColor, "\"/>\n");
  }
  return out + legend(!eval.empty()) + "</svg>\n";
}

}  // namespace quarry
