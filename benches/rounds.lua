--- What the benchmarks share: contenders that take turns, so that what disturbs the machine disturbs all, and medians.

local rounds = {}

--- The value at the fraction `q` of a list of numbers; the list stays as it is.
function rounds.quantile(values, q)
    local sorted = {}
    for i, value in ipairs(values) do
        sorted[i] = value
    end
    table.sort(sorted)
    return sorted[math.max(1, math.ceil(q * #sorted))]
end

--- Calls every contender once to warm up, then all of them in turn, `count` times: A B C, A B C, ...
-- A contender returns a table of named figures. Returns, for each contender in order, a table with the list of every
-- figure, one a round.
function rounds.run(count, contenders)
    local results = {}
    for round = 0, count do
        for i, contender in ipairs(contenders) do
            collectgarbage()
            collectgarbage()
            local figures = contender()
            results[i] = results[i] or {}
            for name, figure in pairs(figures) do
                results[i][name] = results[i][name] or {}
                results[i][name][round] = figure -- round 0 is not part of the list
            end
        end
    end
    return (table.unpack or unpack)(results)
end

--- "1,234,568"; numbers below a thousand keep two decimals.
local function pretty(number)
    if number < 1000 then
        return ("%.2f"):format(number)
    end
    local digits = ("%.0f"):format(number):reverse():gsub("(%d%d%d)", "%1,"):reverse()
    return (digits:gsub("^,", ""))
end

--- Prints a header: what the rows below it compare.
function rounds.header(title, theirs, ours)
    print(("%-56s %11s %11s %6s  %-13s %s"):format(title, theirs, ours, "ratio", "of the rounds", "goal"))
end

--- Prints a row: both medians, the median of the ratios of ours to theirs of each round, and their range.
function rounds.row(title, theirs, ours, goal)
    local ratios = {}
    for i, figure in ipairs(ours) do
        ratios[i] = figure / theirs[i]
    end
    local median = rounds.quantile
    print(("  %-54s %11s %11s %6.2f  %-13s %s"):format(
        title, pretty(median(theirs, 0.5)), pretty(median(ours, 0.5)), median(ratios, 0.5),
        ("%.2f to %.2f"):format(median(ratios, 0), median(ratios, 1)), goal or ""
    ))
end

return rounds
