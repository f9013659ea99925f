# What Hyper-V knows of some VMs, all of them in one go.
function Invoke-Operation($Request) {
    Assert-Rights
    $neighbours = @(Get-NetNeighbor -ErrorAction SilentlyContinue)
    $found = @()
    foreach ($vm in @(Hyper-V\Get-VM)) {
        foreach ($machine in @($Request.machines)) {
            if (Test-Machine $vm $machine) {
                $found += @{ key = $machine.key; facts = (Get-Facts $vm $neighbours) }
            }
        }
    }
    return @{ found = $found }
}
